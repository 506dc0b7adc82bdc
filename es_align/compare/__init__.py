"""ES and GRPO arms on equal terms: one model, task, reward and starting adapter, one budget."""
