"""How far to trust an explanation: tests with a known answer, controls, faithfulness."""
