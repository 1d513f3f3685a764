"""PhoneBook: can a model find one line of a long list? Prompts that are drawn, not fetched, and a score for each."""
