"""Tables from each spelling of tensor names to the parameters of our modules."""
