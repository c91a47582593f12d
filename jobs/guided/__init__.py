"""Images that are made or changed: generate, counterfactuals, disagreements, neurons."""
