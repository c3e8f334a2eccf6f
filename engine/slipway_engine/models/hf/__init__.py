"""Any other architecture: transformers' own modelling, attending through our paged cache."""
