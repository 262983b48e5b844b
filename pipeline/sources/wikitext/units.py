"""Units of measurement as templates name them, and what they are turned into where nothing is said."""

import re
from dataclasses import dataclass, replace
from functools import cache

# Symbol, name (the plural in -s unless said), factor to the kind's base unit, and what it is turned into by default.
_UNITS_TEXT = """
length
mm|millimetre||0.001|in
cm|centimetre||0.01|in
m|metre||1|ft
km|kilometre||1000|mi
in|inch|inches|0.0254|mm
ft|foot|feet|0.3048|m
yd|yard||0.9144|m
mi|mile||1609.344|km
nmi|nautical mile||1852|km
fathom|fathom||1.8288|m
furlong|furlong||201.168|m
um|micrometre||0.000001|in
nm|nanometre||0.000000001|in
Gm|gigametre||1000000000|AU
ly|light-year||9460730472580800|
AU|astronomical unit||149597870700|Gm
pc|parsec||30856775814913673|
area
mm2|square millimetre||0.000001|sqin
cm2|square centimetre||0.0001|sqin
m2|square metre||1|sqft
ha|hectare||10000|acre
km2|square kilometre||1000000|sqmi
sqin|square inch|square inches|0.00064516|cm2
sqft|square foot|square feet|0.09290304|m2
sqyd|square yard||0.83612736|m2
acre|acre||4046.8564224|ha
sqmi|square mile||2589988.110336|km2
volume
ml|millilitre||0.000001|usoz
l|litre||0.001|impgal
m3|cubic metre||1|cuft
km3|cubic kilometre||1000000000|cumi
cm3|cubic centimetre||0.000001|cuin
cc|cubic centimetre||0.000001|cuin
cuin|cubic inch|cubic inches|0.000016387064|cm3
cuft|cubic foot|cubic feet|0.028316846592|m3
cuyd|cubic yard||0.764554857984|m3
cumi|cubic mile||4168181825.44058|km3
usgal|US gallon||0.003785411784|L
impgal|imperial gallon||0.00454609|L
usoz|US fluid ounce||0.0000295735295625|ml
impoz|imperial fluid ounce||0.0000284130625|ml
USpt|US pint||0.000473176473|L
imppt|imperial pint||0.00056826125|L
oilbbl|barrel||0.158987294928|m3
acre.ft|acre-foot|acre-feet|1233.48183754752|m3
mass
mg|milligram||0.000001|gr
carat|carat||0.0002|g
g|gram||0.001|oz
kg|kilogram||1|lb
t|tonne||1000|LT
tonne|tonne||1000|ST
oz|ounce||0.028349523125|g
ozt|troy ounce||0.0311034768|g
lb|pound||0.45359237|kg
st|stone|stone|6.35029318|kg
LT|long ton||1016.0469088|t
ST|short ton||907.18474|t
cwt|long hundredweight|long hundredweight|50.80234544|kg
speed
m/s|metre per second|metres per second|1|ft/s
km/h|kilometre per hour|kilometres per hour|0.2777777777777778|mph
km/s|kilometre per second|kilometres per second|1000|mi/s
mi/s|mile per second|miles per second|1609.344|km/s
mph|mile per hour|miles per hour|0.44704|km/h
ft/s|foot per second|feet per second|0.3048|m/s
kn|knot||0.5144444444444445|km/h
temperature
C|degree Celsius|degrees Celsius|1|F
F|degree Fahrenheit|degrees Fahrenheit|1|C
K|kelvin||1|F
temperature change
C-change|degree Celsius|degrees Celsius|1|F-change
F-change|degree Fahrenheit|degrees Fahrenheit|0.5555555555555556|C-change
power
W|watt||1|hp
kW|kilowatt||1000|hp
MW|megawatt||1000000|hp
hp|horsepower|horsepower|745.6998715822702|kW
bhp|brake horsepower|brake horsepower|745.6998715822702|kW
PS|metric horsepower|metric horsepower|735.49875|kW
energy
J|joule||1|ftlbf
kJ|kilojoule||1000|kcal
MJ|megajoule||1000000|kWh
kWh|kilowatt-hour||3600000|MJ
cal|calorie||4.184|J
kcal|kilocalorie||4184|kJ
eV|electronvolt||0.0000000000000000001602176634|aJ
pressure
Pa|pascal||1|psi
kPa|kilopascal||1000|psi
MPa|megapascal||1000000|psi
bar|bar||100000|kPa
hPa|hectopascal||100|inHg
mbar|millibar||100|inHg
atm|standard atmosphere||101325|kPa
psi|pound per square inch|pounds per square inch|6894.757293168361|kPa
inHg|inch of mercury|inches of mercury|3386.388640341|kPa
mmHg|millimetre of mercury|millimetres of mercury|133.322387415|kPa
force
N|newton||1|lbf
kN|kilonewton||1000|lbf
lbf|pound-force|pounds-force|4.4482216152605|N
torque
Nm|newton-metre||1|lbft
lbft|pound-foot|pound-feet|1.3558179483314|Nm
density
/km2|per square kilometre|per square kilometre|0.000001|/sqmi
/sqmi|per square mile|per square mile|0.00000038610215854|/km2
/ha|per hectare|per hectare|0.0001|/acre
/acre|per acre|per acre|0.00024710538147|/ha
flow
m3/s|cubic metre per second|cubic metres per second|1|cuft/s
cuft/s|cubic foot per second|cubic feet per second|0.028316846592|m3/s
oilbbl/d|barrel per day|barrels per day|0.000001840130728333|m3/d
m3/d|cubic metre per day|cubic metres per day|0.000011574074074074|cuft/d
cuft/d|cubic foot per day|cubic feet per day|0.00000032774128|m3/d
l/s|litre per second|litres per second|0.001|cuft/s
time
s|second||1|
min|minute||60|
h|hour||3600|
"""
_SYMBOLS = {
    "sqin": "sq in", "sqft": "sq ft", "sqyd": "sq yd", "acre": "acres", "sqmi": "sq mi", "cuin": "cu in", "cuft": "cu ft",
    "cuyd": "cu yd", "cumi": "cu mi", "usgal": "US gal", "impgal": "imp gal", "usoz": "US fl oz", "impoz": "imp fl oz",
    "USpt": "US pt", "imppt": "imp pt", "oilbbl": "bbl", "acre.ft": "acre⋅ft", "LT": "long tons", "ST": "short tons",
    "cwt": "long cwt", "tonne": "t", "C": "°C", "F": "°F", "C-change": "°C", "F-change": "°F", "ozt": "ozt", "cuft/s": "cu ft/s", "ftlbf": "ft⋅lbf",
    "Nm": "N⋅m", "lbft": "lb⋅ft", "um": "μm", "mm2": "mm²", "cm2": "cm²", "m2": "m²", "km2": "km²", "m3": "m³",
    "km3": "km³", "cm3": "cm³", "m3/s": "m³/s", "l": "L", "l/s": "L/s", "oilbbl/d": "bbl/d", "m3/d": "m³/d", "cuft/d": "cu ft/d", "carat": "carats", "ml": "mL", "/km2": "/km²", "/sqmi": "/sq mi",
    "fathom": "fathoms", "furlong": "furlongs", "st": "st",
}  # fmt: skip
_ALIASES = {
    "metre": "m", "meter": "m", "metres": "m", "meters": "m", "kilometre": "km", "kilometer": "km", "kilometres": "km",
    "kilometers": "km", "mile": "mi", "miles": "mi", "foot": "ft", "feet": "ft", "inch": "in", "inches": "in",
    "yard": "yd", "yards": "yd", "sqkm": "km2", "km²": "km2", "sqm": "m2", "m²": "m2", "sqcm": "cm2", "acres": "acre",
    "hectare": "ha", "hectares": "ha", "square mile": "sqmi", "square miles": "sqmi", "mi2": "sqmi", "sq mi": "sqmi",
    "ft2": "sqft", "sq ft": "sqft", "in2": "sqin", "foot2": "sqft", "square foot": "sqft", "square feet": "sqft",
    "pound": "lb", "pounds": "lb", "lbs": "lb", "kilogram": "kg", "kilograms": "kg", "gram": "g", "grams": "g", "ounce": "oz",
    "ounces": "oz", "ton": "ST", "tons": "ST", "tonnes": "tonne", "long ton": "LT", "short ton": "ST", "MT": "t",
    "L": "l", "litre": "l", "liter": "l", "litres": "l", "liters": "l", "mL": "ml", "gal": "usgal", "USgal": "usgal",
    "US gal": "usgal", "U.S.gal": "usgal", "imp gal": "impgal", "USoz": "usoz", "bbl": "oilbbl", "kph": "km/h", "kmh": "km/h",
    "km/hr": "km/h", "knot": "kn", "knots": "kn", "°C": "C", "°F": "F", "c": "C", "f": "F", "celsius": "C", "degC": "C",
    "degF": "F", "fahrenheit": "F", "horsepower": "hp", "kw": "kW", "pd/sqmi": "/sqmi", "PD/sqmi": "/sqmi",
    "inhabitants/km2": "/km2", "PD/km2": "/km2", "ftm": "fathom", "fathoms": "fathom", "NM": "nmi", "ci": "cuin",
    "ft3": "cuft", "m³": "m3", "cubic metre": "m3", "cm³": "cm3", "µm": "um", "μm": "um", "N.m": "Nm",
    "N·m": "Nm", "ftlb": "lbft", "lb.ft": "lbft", "lbf.ft": "lbft", "ft.lbf": "lbft", "m/s2": "m/s2", "Ls": "l", "mpg": "mpg",
    "mm3": "mm3", "light-year": "ly", "au": "AU", "acre feet": "acre.ft", "acre-ft": "acre.ft", "acft": "acre.ft",
    "cfs": "cuft/s", "US ST": "ST", "long tons": "LT", "short tons": "ST", "nautical mile": "nmi",
    "U.S. gal": "usgal", "sec": "s", "hr": "h",
}  # fmt: skip
_SCALED = re.compile(r"(?:e(3|6|9|12)|([kMGT]))(\D.{0,20})")
_THOUSANDS = {3: "thousand", 6: "million", 9: "billion", 12: "trillion"}


@dataclass(frozen=True)
class MeasureUnit:
    """One unit; ``kind`` is what it measures."""

    code: str
    kind: str
    name: str
    plural: str
    factor: float
    default: str
    scale: str = ""
    """What stands before the symbol: ``M``, or ``×10^6 ``."""

    @property
    def symbol(self) -> str:
        return self.scale + _SYMBOLS.get(self.code, self.code)


@cache
def _units() -> dict[str, MeasureUnit]:
    units, kind = {}, ""
    for line in _UNITS_TEXT.strip().split("\n"):
        if "|" not in line:
            kind = line
            continue
        code, name, plural, factor, default = line.split("|")
        units[code] = MeasureUnit(code, kind, name, plural or f"{name}s", float(factor), default)
    return units


def unit_of(code: str) -> MeasureUnit | None:
    """The unit a template names; ``e6acre`` are millions of acres, ``Moilbbl/d`` millions of barrels a day."""
    code = code.strip()
    if unit := _units().get(code) or _units().get(_ALIASES.get(code, "")):
        return unit
    found = _SCALED.fullmatch(code)
    unit = found and (_units().get(found[3]) or _units().get(_ALIASES.get(found[3], "")))
    if not found or not unit or (found[2] and unit.kind not in ("volume", "flow")):
        return None
    power = int(found[1] or 3 * (1 + "kMGT".index(found[2])))
    name = f"{_THOUSANDS[power]} {unit.plural}"
    scale = found[2] or f"×10^{power} "
    return replace(unit, name=name, plural=name, factor=unit.factor * 10.0**power, scale=scale)
