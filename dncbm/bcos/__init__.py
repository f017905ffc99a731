"""B-cos networks: classifiers and encoders that are one linear map of each input."""
