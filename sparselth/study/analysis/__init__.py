"""What a study says: gathered results, intervals over seeds, verdicts and the paper's claims."""
