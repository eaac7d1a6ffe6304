"""Forty short prompts for `benchmarks.speculation`, written for it.

OVERLAP: the answer repeats much of what the prompt has: code that is edited, text that is quoted,
corrected, listed, summarised. OPEN: it does not.
"""

from __future__ import annotations

_STACK = """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()

    def peek(self):
        return self.items[-1]

    def size(self):
        return len(self.items)
"""

_SHOP = """def total_price(items, tax_rate):
    total = 0
    for item in items:
        total = total + item["price"] * item["count"]
    return total + total * tax_rate


def print_receipt(items, tax_rate):
    for item in items:
        print(item["name"], item["price"], item["count"])
    print("total", total_price(items, tax_rate))
"""

_CONFIG = """{
  "name": "weather-station",
  "version": "1.4.0",
  "interval_seconds": 60,
  "sensors": [
    {"id": "t1", "kind": "temperature", "unit": "celsius"},
    {"id": "h1", "kind": "humidity", "unit": "percent"},
    {"id": "p1", "kind": "pressure", "unit": "hectopascal"}
  ]
}"""

_PAGE = """<ul class="menu">
  <li class="entry"><a href="/home">Home</a></li>
  <li class="entry"><a href="/garden">Garden</a></li>
  <li class="entry"><a href="/kitchen">Kitchen</a></li>
  <li class="entry"><a href="/contact">Contact</a></li>
</ul>"""

_SQL = """SELECT customers.name, customers.city, SUM(orders.amount) AS amount
FROM customers
JOIN orders ON orders.customer_id = customers.id
WHERE orders.year = 2021
GROUP BY customers.name, customers.city
ORDER BY amount DESC;"""

_BEES = (
    "A honey bee colony has one queen, some hundreds of drones and up to fifty thousand workers. "
    "The queen lays as many as two thousand eggs a day in early summer. Workers live for about six "
    "weeks in summer and for several months in winter. In their first three weeks they clean "
    "cells, feed larvae and build comb; in the last three they fly out for nectar, pollen, water "
    "and resin. A worker brings about forty milligrams of nectar home from one flight. "
    "When a colony grows too large it swarms: the old queen leaves with half of the workers."
)

_BRIDGE = (
    "The old bridge across the river Lenn was built in 1786 from grey stone. It has five arches, "
    "and the widest of them spans eighteen metres. In the flood of 1894 two of its arches "
    "collapsed, and they were built again within a year. Since 1972 no cars may cross the bridge, "
    "only people on foot and on bicycles. Every summer the town holds a market on it."
)

_NOTES = (
    "Meeting of the garden club, 4 May. Present: Ada, Boris, Chen, Dora. Ada reported that the "
    "water tank leaks and that a new one costs 240 euros. Boris will ask the hardware store for a "
    "lower price. Chen has planted tomatoes, beans and pumpkins in the north bed. Dora wants to "
    "build two new compost bins before June. The next meeting is on 1 June at six o'clock."
)

_WRONG = (
    "Their are many reasons too visit the museum. The collection have more than two hundred "
    "paintings, and most of them was made by local artists. On sundays the entrance is free. "
    "The cafe on the first floor serve coffee and cake, and it's terrace looks over the harbour. "
    "Children gets a little book with questions, which they can answers while they walks around."
)

_RECIPE = (
    "Mix 300 g of flour, 200 g of butter and 100 g of sugar. Add one egg and a pinch of salt. "
    "Knead the dough quickly and let it rest in the refrigerator for one hour. Roll it out to half "
    "a centimetre and cut out round biscuits. Bake them at 180 degrees for twelve minutes. "
    "Let the biscuits cool down on a rack and dust them with sugar."
)

OVERLAP: tuple[str, ...] = (
    f"Rename the class Stack to Pile and keep everything else. Write the whole code.\n\n{_STACK}",
    f"Add a method `clear` that empties the list. Write the whole class again.\n\n{_STACK}",
    f"Add a docstring to every method. Write the whole class again.\n\n{_STACK}",
    f"Rename the argument tax_rate to tax everywhere. Write the whole code.\n\n{_SHOP}",
    f"Print a line of dashes before the total. Write the whole code again.\n\n{_SHOP}",
    f"Add type hints to these functions. Write the whole code again.\n\n{_SHOP}",
    f"Change the version to 1.5.0 and the interval to 30 seconds. Write the file.\n\n{_CONFIG}",
    f"Add a sensor for wind speed with the id w1. Write the whole file again.\n\n{_CONFIG}",
    f"Change the class of all entries to item. Write the whole list again.\n\n{_PAGE}",
    f"Add an entry for /library after Garden. Write the whole list again.\n\n{_PAGE}",
    f"Change the year to 2023 and keep only cities in France. Write the query.\n\n{_SQL}",
    f"Repeat this text word by word.\n\n{_BEES}",
    f"Summarise this text in three sentences, with its own words.\n\n{_BEES}",
    f"Copy every sentence of this text that contains a number.\n\n{_BEES}",
    f"Write this text as a list, one sentence in a line.\n\n{_BRIDGE}",
    f"Repeat this text, but replace the name of the river with Tarn.\n\n{_BRIDGE}",
    f"Write minutes from these notes with one line for each person.\n\n{_NOTES}",
    f"Which decisions were made? Quote them from the notes.\n\n{_NOTES}",
    f"Correct the grammar of this text. Write the whole text again.\n\n{_WRONG}",
    f"Write this recipe as numbered steps.\n\n{_RECIPE}",
)

OPEN: tuple[str, ...] = (
    "Why is the sky blue?",
    "Tell me a short story about a lighthouse keeper.",
    "What should I see in Lisbon in two days?",
    "Explain how a bicycle stays upright.",
    "Write a poem about the first snow.",
    "How do I learn to play the guitar as an adult?",
    "What is the difference between weather and climate?",
    "Give me an idea for a birthday present for my grandmother.",
    "Describe how bread is made, for a child of six.",
    "What makes a good friend?",
    "Who was Marie Curie?",
    "Why do cats purr?",
    "How does a refrigerator work?",
    "Write a letter to a neighbour who plays loud music at night.",
    "What would happen if the moon disappeared?",
    "Explain what inflation is.",
    "Which book would you take to a lonely island, and why?",
    "How can I sleep better?",
    "Imagine a city under the sea. What does a morning look like there?",
    "What are the rules of chess?",
)
