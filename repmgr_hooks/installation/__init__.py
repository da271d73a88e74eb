"""From a fresh machine to an installed one: what there is (survey), what is to be written (draft), where it goes."""
