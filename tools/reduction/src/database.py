"""Writes an SQLite database of a shop, the same each time: `database.py FILE ROWS`."""

import datetime
import json
import random
import sqlite3
import sys
import uuid

path, rows = sys.argv[1], int(sys.argv[2])
rng = random.Random(20240229)
FIRST = "Anna Ben Carla David Elif Farid Greta Hugo Ines Jonas Kaya Lena Milan Nora Otto Paula Ravi Sofia Tom Yuki".split()
LAST = "Adler Becker Costa Dubois Eriksen Fischer Garcia Horvat Ivanov Jansen Keller Lopez Moreau Novak Okafor Peters Rossi Sato Weber Zhang".split()
STREETS = "Main Oak Station Church Mill River Park School Garden Harbour Bridge Market Hill Forest Lake".split()
CITIES = "Lisbon Hamburg Lyon Turin Bergen Porto Graz Ghent Malmo Brno Split Vigo Tartu Basel Cork".split()
WORDS = "fast delivery broken box great value late parcel nice colour wrong size will order again very good quality not as shown returned".split()
STATES = ["new", "paid", "packed", "shipped", "delivered", "returned"]

db = sqlite3.connect(path)
db.executescript(
    """
    PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
    CREATE TABLE customer (id INTEGER PRIMARY KEY, key TEXT, name TEXT, mail TEXT, street TEXT, city TEXT, since TEXT, balance REAL);
    CREATE TABLE item (id INTEGER PRIMARY KEY, customer INTEGER, placed TEXT, state TEXT, cents INTEGER, quantity INTEGER, sku TEXT, detail TEXT);
    CREATE TABLE review (id INTEGER PRIMARY KEY, item INTEGER, stars INTEGER, body TEXT, token BLOB);
    """
)
start = datetime.datetime(2021, 1, 1)


def customer(n):
    first, last = rng.choice(FIRST), rng.choice(LAST)
    key = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    mail = f"{first}.{last}{rng.randrange(9999)}@example.org".lower()
    street = f"{rng.randrange(1, 300)} {rng.choice(STREETS)} Street"
    since = (start + datetime.timedelta(seconds=n * 40)).isoformat()
    return n, key, f"{first} {last}", mail, street, rng.choice(CITIES), since, round(rng.gauss(120, 80), 2)


def item(n):
    placed = (start + datetime.timedelta(seconds=n * 11 + rng.randrange(11))).isoformat()
    detail = json.dumps({"warehouse": rng.randrange(12), "weight": rng.randrange(20, 9000), "gift": rng.random() < 0.1, "trace": f"{rng.getrandbits(64):016x}"})
    return n, rng.randrange(rows // 5 + 1), placed, rng.choice(STATES), rng.randrange(199, 49999), rng.randrange(1, 6), f"SKU-{int(rng.paretovariate(0.8) * 40) % 20000:05d}", detail


def review(n):
    body = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(3, 40)))
    return n, rng.randrange(rows), rng.choice([1, 2, 3, 4, 4, 5, 5, 5]), body, rng.getrandbits(128).to_bytes(16, "big")


db.executemany("INSERT INTO customer VALUES (?,?,?,?,?,?,?,?)", map(customer, range(rows // 5)))
db.executemany("INSERT INTO item VALUES (?,?,?,?,?,?,?,?)", map(item, range(rows)))
db.executemany("INSERT INTO review VALUES (?,?,?,?,?)", map(review, range(rows // 4)))
db.executescript(
    """
    CREATE INDEX customer_mail ON customer (mail);
    CREATE INDEX item_customer ON item (customer, placed);
    CREATE INDEX item_sku ON item (sku);
    """
)
db.commit()
db.close()
