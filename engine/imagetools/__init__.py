"""What the engine's image build needs and the engine does not: it runs before anything is installed."""
