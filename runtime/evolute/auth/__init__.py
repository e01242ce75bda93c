"""Users' tokens: what they say, whether it is true, and the keys of those who issue them."""
