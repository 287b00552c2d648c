"""Off-policy evaluation: compare policies on decisions that neither of them need have made."""
