"""Graph to Graph: rules, passes and pipelines."""
