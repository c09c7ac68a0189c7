"""Files wherever they are; atomic output."""
