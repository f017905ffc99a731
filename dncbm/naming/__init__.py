"""Names for dictionary rows: vocabulary, word index, assignment, thresholds, the artifact."""
