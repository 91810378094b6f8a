"""The paper's experiments: the rows of its tables, their ImageNet recipes, and a study of them at small scale."""
