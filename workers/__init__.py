"""Who evaluates: the pool that dispatches, the Ray actor that holds an engine, and the engines."""
