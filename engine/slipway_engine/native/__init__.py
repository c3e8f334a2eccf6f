"""The CPU path in C++: a whole decoder step in one call, behind the same interface as the torch runner."""
