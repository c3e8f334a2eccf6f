"""The core loop: scheduler, KV blocks, runner and sampler. It knows no HTTP, no tokenizer and no text."""
