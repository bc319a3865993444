"""The commands study and compare: many trainings under one budget, and what their scores allow to conclude."""
