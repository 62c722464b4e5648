"""Several services behind one door: which of them is asked, and what happens when one dies under way."""
