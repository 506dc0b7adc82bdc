"""What generates: vLLM for speed, transformers as the readable reference, one interface."""
