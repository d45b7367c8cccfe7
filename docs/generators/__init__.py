"""Write the parts of the documentation that follow from code and data: references, the import rules, pictures."""
