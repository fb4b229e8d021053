"""The parts of `bench_gpu`, each run in a process of its own."""
