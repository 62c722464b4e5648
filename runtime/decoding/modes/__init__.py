"""The modes, one file each. A mode says what its rows need next and what an outcome means for them."""
