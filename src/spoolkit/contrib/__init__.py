"""How do other tools follow jobs? One module for each, which imports the tool; nothing else does."""
