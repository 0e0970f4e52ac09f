import json
import threading
import unittest
from decimal import Decimal
from urllib.error import HTTPError
from urllib.request import urlopen

from converter import UnitError, convert
from service import Server


class ConverterTest(unittest.TestCase):
    def test_units_of_one_dimension(self):
        for value, source, target, want in [
            ("1", "mi", "km", "1.609344"),
            ("-2.5", "h", "min", "-150"),
            ("0", "lb", "kg", "0"),
            ("1", "in", "ft", "0.0833333333333"),
            ("1e20", "m", "m", "1e20"),
        ]:
            with self.subTest(value=value, source=source, target=target):
                self.assertEqual(convert(Decimal(value), source, target), Decimal(want))

    def test_units_that_do_not_go_together(self):
        with self.assertRaisesRegex(UnitError, "km is a unit of length, kg one of mass"):
            convert(Decimal(1), "km", "kg")
        with self.assertRaisesRegex(UnitError, "'parsec' is no unit known here"):
            convert(Decimal(1), "parsec", "m")


class ServiceTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(("127.0.0.1", 0))
        cls.thread = threading.Thread(target=cls.server.serve_forever)
        cls.thread.start()

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.thread.join()
        cls.server.server_close()

    def ask(self, path):
        try:
            with urlopen(f"http://127.0.0.1:{self.server.server_port}{path}") as response:
                return response.status, json.load(response)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def test_answers(self):
        for path, status, body in [
            ("/healthz", 200, {"status": "ok"}),
            ("/convert?value=100&from=ft&to=m", 200, {"value": "30.48", "unit": "m"}),
            ("/convert?value=1e3&from=g&to=kg", 200, {"value": "1", "unit": "kg"}),
            ("/convert?value=1&from=g", 400, {"error": "parameter to is wanted once"}),
            ("/convert?value=NaN&from=g&to=kg", 400, {"error": "value 'NaN' is no number, or too large or small a one"}),
            ("/convert?value=1&from=g&to=h", 400, {"error": "g is a unit of mass, h one of time"}),
            ("/nowhere", 404, {"error": "there is nothing at /nowhere"}),
        ]:
            with self.subTest(path=path):
                self.assertEqual(self.ask(path), (status, body))


if __name__ == "__main__":
    unittest.main()
