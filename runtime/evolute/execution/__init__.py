"""Running functions: request and outcome, the worker that runs them, the pool of workers, the executor, the cache."""
