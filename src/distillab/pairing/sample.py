"""A small multilingual text on which two tokenizers are compared if the user gives none.

Most of a vocabulary is rare, so the common share of two vocabularies tells little about a text; here tokens are
weighted by use. 70 % of the characters are English, mathematics and code; the rest covers the most used languages.
"""

from __future__ import annotations

SAMPLE_SOURCE = "the sample that ships with distillab"

SAMPLE: tuple[str, ...] = (
    "The train was late again, so we sat on the platform and talked about the summer. Anna had found work in a small "
    "bakery near the harbour. She liked the early mornings best, when the streets were empty and the bread was warm.",
    "Water boils at a lower temperature on a mountain because the air presses less on its surface. At 3,000 metres it "
    "takes about 90 °C, which is why rice and beans need longer there.",
    "Could you explain the difference between a list and a tuple in Python? I'm not sure which one I should use for "
    "the rows of a table.",
    "Sure! A list can be changed after it was made, a tuple can't. If the number of columns is fixed, a tuple is the "
    "safer choice; for a growing collection of rows, use a list:",
    'def mean(values: list[float]) -> float:\n    """Return the arithmetic mean."""\n    if not values:\n'
    '        raise ValueError("no values")\n    return sum(values) / len(values)\n',
    'for (int i = 0; i < n; i++) {\n\tif (a[i] > max) {\n\t\tmax = a[i];\n\t}\n}\nprintf("%d\\n", max);',
    '{"name": "Lena", "age": 31, "tags": ["reader", "cyclist"], "address": {"city": "Leeds", "zip": null}}',
    "A box holds 24 bottles. A shop sells 7 boxes on Monday and half as many on Tuesday. It sells 7 + 3.5 = 10.5 "
    "boxes, that is 10.5 * 24 = 252 bottles.\nThe answer is 252.",
    "### How to plant a tree\n\n1. Dig a hole twice as wide as the roots.\n2. Set the tree straight and fill in the "
    "soil.\n3. Water it well, then **once a week** for the first year.",
    "Dear Ms. Okafor,\n\nthank you for your order of 12 May. The chairs will be delivered on Thursday between 9:00 and "
    "12:30. Please call +44 20 7946 0000 if that doesn't suit you.\n\nKind regards",
    "The court held that the agreement was void, since neither party had signed it; the claim for damages of "
    "$1,250,000 was therefore dismissed, and the appeal is still pending.",
    "Patients who slept fewer than six hours reported headaches more often (41 % against 18 %, p < 0.01), but the "
    "study was small and could not tell cause from effect.",
    '<html>\n  <body>\n    <p class="note">See <a href="https://example.org/docs?page=2">the next page</a>.</p>\n'
    "  </body>\n</html>",
    "SELECT city, COUNT(*) AS people FROM customers WHERE age >= 18 GROUP BY city ORDER BY people DESC LIMIT 10;",
    "Once upon a time a little fox lived by a river. Every night she looked at the moon in the water and wondered why "
    'it never got wet. "Perhaps," said the owl, "it is only visiting."',
    "El mercado abre a las siete de la mañana y los sábados hay música en la plaza.",
    "Pouvez-vous m'aider à traduire cette phrase ? Je l'ai trouvée dans un vieux livre d'école.",
    "Die Straßenbahn fährt alle zehn Minuten; am Wochenende verkehrt sie nur bis Mitternacht.",
    "A reunião começa às nove horas, e os relatórios já estão na mesa do diretor.",
    "Il treno per Bologna parte dal binario quattro con venti minuti di ritardo.",
    "Wczoraj padał śnieg, więc zostaliśmy w domu i graliśmy w szachy.",
    "Bugün hava çok güzel, öğleden sonra parkta yürüyüş yapacağız.",
    "Buổi sáng tôi uống cà phê và đọc báo trước khi đi làm.",
    "Весной река выходит из берегов, и дети пускают по воде бумажные кораблики.",
    "我们明天上午九点在图书馆门口见面，请带上你的笔记本。",
    "駅の近くに新しい本屋ができたので、週末に行ってみましょう。",
    "오늘은 날씨가 맑아서 친구들과 공원에서 점심을 먹었습니다.",
    "افتتحت المدينة حديقة جديدة قرب النهر، ويزورها الناس كل مساء.",
    "बारिश के बाद बच्चे मैदान में खेलने लगे।",
)
