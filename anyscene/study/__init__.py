"""The human study: blinded, balanced, in a browser, and its statistics. No torch here."""
