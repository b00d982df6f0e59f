"""How `Process` brings jobs to children and answers back."""
