"""How a study runs: every cell once, here or elsewhere, from where the last start left off."""
