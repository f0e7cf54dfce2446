"""Studies of our own: each module runs one and gives a tidy table and a picture."""
