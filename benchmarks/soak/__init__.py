"""Mixed load beyond what the engine can do, for as long as one likes; then a verdict."""
