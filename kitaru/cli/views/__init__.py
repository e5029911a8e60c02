"""What people and machines read: one rendering a form, none of them decides anything."""
