"""What runs say when they are set side by side."""
