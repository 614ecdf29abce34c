"""What a trained model is worth: multi-label metrics and proposal recall."""
