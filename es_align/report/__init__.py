"""What a person looks at after a run: the summary table and the plots."""
