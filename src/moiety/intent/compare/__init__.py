"""Methods and seeds side by side: runs, grades, verdicts and pages."""
