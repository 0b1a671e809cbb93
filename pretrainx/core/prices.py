"""What an hour of a chip costs: an example to be edited: US dollars, of the order of on-demand list prices in 2025, not looked up anew.

Contracts, regions and reservations change them by factors of two and more; `tools/plan.py --price=2.10` takes one of your own.
"""

DATED = "an example, about 2025"
DOLLARS_AN_HOUR = {
    "v4": 3.22,
    "v5e": 1.20,
    "v5p": 4.20,
    "v6e": 2.70,
    "tpu7x": 12.00,
    "a100": 3.00,
    "h100": 4.00,
    "h200": 4.50,
    "b200": 7.50,
}
