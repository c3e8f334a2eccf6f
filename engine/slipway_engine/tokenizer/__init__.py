"""Text to tokens and back: a model's own tokenizer, its chat template, incremental detokenisation."""
