"""What takes the place of other libraries' modules, name by name? A site changes an import, and keeps its code."""
