"""What a study is: its settings, the cells that follow from them, and by what it is judged."""
