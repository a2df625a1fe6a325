"""Networks: nn.Modules that take arrays and give arrays. They know no files, no clocks, no printing."""
