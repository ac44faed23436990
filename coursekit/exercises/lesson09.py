"""The checks of lesson 09, creating: from divergences to samples."""
