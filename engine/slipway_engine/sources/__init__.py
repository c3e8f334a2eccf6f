"""From a model's source to files on this machine: hubs, plain HTTPS, local paths. Never a pickle."""
