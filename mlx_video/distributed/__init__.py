"""Several machines at one task: who is there, what they exchange, and how the loss of one is noticed.

Arrays travel through `mx.distributed`. The room knows no run; those that use it hand in what is to be
computed.

What turns a network, its blocks or a pass into one of several processes:

- `collectives.Collectives(cluster.group)`: exchanges, counted in its `traffic`. `split_group(group, size)`
  gives those of the process with its neighbours, such as two and two for guidance by context on four
  machines. All modes take either.
- `context_parallel.ContextParallel(collectives)`: `.share(one)` for each `Pass`, built once as ever; what it
  gives takes the place of the pass, and its `cache` that of the pass's cache, in the run's state too. The
  velocity is whole in every process.
- `tensor_parallel.TensorParallel(collectives)`: `with tensor.split(transformer, source) as own:` of a network
  just built and its file, then `load_module(transformer, own, ...)`; and `.share(one)` for each `Pass`. The
  velocity is whole in every process, equal but for rounding: rank 0's counts. Adapters of such a network are
  cut with `share_adapters(adapters, own.share)`. Blocks are not streamed besides.
- `sharded_blocks.load_sharded(transformer, source, order, collectives, ...)`, called as
  `loading.block_stream.load_streamed` is: a block source, of which each process keeps a part. Alone it gives
  the bits of one process; with `ContextParallel(...).share`, on the same `Collectives`, each process computes
  its tokens alone.
- `shared_decode.decode_shared(vae, latents, collectives, tile=...)`, in place of `decode_chunks`: all
  processes hold the VAE and take all chunks.
- `gradients.sum_gradients(gradients, collectives)`: for training on other examples in each process.

What each process takes is planned with `planning.division.Division(mode, count)` as `MemoryTask.division`,
and `decode_peak_bytes(..., processes=count)`. "sharded" there means the weights and the tokens.
"""
