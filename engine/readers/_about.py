"""What a DICOM file says of itself that identifies nobody, and how much it says that does. PS3.15 Annex E.

Words are told only where they are in a list here: a file may hold anything in any text element, a patient's name too.
Everything else is numbers, or counted.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from engine.errors import ImageError
from engine.readers._decoders import DCT, Layout, known
from engine.readers._header import QUADRUPED, cosines_of, functional, number, orientation, spacing_of, strings, word

ELEMENTS = 1_000_000  # of one header; an enhanced file of 2000 frames has a tenth of that


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# PS3.3 C.7.3.1.1.1, the modalities of images
MODALITIES = _set(
    "AR BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DS DX EC EM EPS ES FA FID FS GM HD IO IVOCT IVUS KER KO LE LEN "
    "LP LS MA MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTPLAN "
    "RTRECORD RTSEGANN RTSTRUCT SC SEG SM SMR SR SRF ST STAIN TG US VA VF VIDD XA XAPROTOCOL XC"
)
# PS3.16 Annex L, the more usual ones
BODY_PARTS = _set(
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID "
    "CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE "
    "CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FETUS FINGER FOOT GALLBLADDER HAND HEAD HEADNECK HEART HIP "
    "HUMERUS ILEUM ILIUM IAC JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK "
    "NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE RADIUS "
    "RECTUM RETINA RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SKIN SKULL SPINE SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THUMB "
    "THYMUS THYROID TIBIA TLSPINE TMJ TOE TONGUE TRACHEA TSPINE ULNA URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA"
)
LATERALITIES = {"R": "right", "L": "left", "B": "both", "U": "unpaired"}
VIEWS = _set("AP PA LL RL RLD LLD RLO LLO CC MLO ML LM LMO XCCL XCCM FB SIO LATERAL LAT AX ISO")
KERNELS = re.compile(r"(?:[A-Z]{1,2}\d{1,3}[a-z]{0,2}|STANDARD|SOFT|DETAIL|BONE|BONEPLUS|LUNG|CHST|EDGE|ULTRA)(?:\\\d)?")
BURNED = {  # PS3.3 C.7.3.1.1.1: modalities whose machines usually write into the picture
    "US": "ultrasound",
    "IVUS": "intravascular ultrasound",
    "XA": "X-ray angiography",
    "RF": "fluoroscopy",
    "ES": "endoscopy",
    "OT": "other, as screen captures are",
    "SC": "secondary capture",
    "XC": "photography",
    "DG": "diaphanography",
    "OP": "ophthalmic photography",
}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame children

# label, keyword, unit, and the least value that cannot be true
NUMBERS = (
    ("slice thickness", "SliceThickness", "mm", 1e3),
    ("spacing between slices", "SpacingBetweenSlices", "mm", 1e3),
    ("tube voltage", "KVP", "kV", 1e3),
    ("exposure", "Exposure", "mAs", 1e5),
    ("echo time", "EchoTime", "ms", 1e5),
    ("repetition time", "RepetitionTime", "ms", 1e6),
    ("inversion time", "InversionTime", "ms", 1e6),
    ("flip angle", "FlipAngle", "degrees", 361),
    ("field strength", "MagneticFieldStrength", "T", 100),
    ("gantry tilt", "GantryDetectorTilt", "degrees", 91),
    ("frame time", "FrameTime", "ms", 1e6),
)


def facts_of(header: Dataset, layout: Layout, frames: int, syntax: str) -> tuple[tuple[str, str], ...]:
    """Geometry and acquisition from numbers and known codes, never from words that somebody typed."""
    middle = frames // 2
    facts: list[tuple[str, str]] = [("size", f"{layout.columns} x {layout.rows} pixels")]
    if frames > 1:
        facts.append(("frames", str(frames)))
    spacing, _ = spacing_of(header, middle)
    if spacing:
        facts.append(("pixel spacing", f"{spacing[0]:.4g} x {spacing[1]:.4g} mm"))
    measures = functional(header, middle, "PixelMeasuresSequence")
    cosines = cosines_of(header, middle)
    if cosines:
        facts.append(("orientation", orientation(cosines)))
    laterality = word(header, "ImageLaterality", LATERALITIES) or word(header, "Laterality", LATERALITIES)
    if laterality:
        facts.append(("laterality", LATERALITIES[laterality]))
    view = word(header, "ViewPosition", VIEWS)
    if view:
        facts.append(("view", view))
    for label, keyword, unit, most in NUMBERS:
        found = number(measures, keyword) if measures is not None else None
        found = number(header, keyword) if found is None else found
        if found is not None and 0 < found < most:
            facts.append((label, f"{found:.4g} {unit}"))
    kernel = "\\".join(strings(header, "ConvolutionKernel"))
    if KERNELS.fullmatch(kernel):
        facts.append(("kernel", kernel))
    if "".join(strings(header, "ContrastBolusAgent")) or header.get("ContrastBolusAgentSequence"):
        facts.append(("contrast agent", "yes"))
    facts.append(("transfer syntax", known(syntax) or "none given"))
    facts.append(("photometric interpretation", layout.photometric))
    kind = "floating point" if layout.keyword != "PixelData" else "signed" if layout.signed else "unsigned"
    facts.append(("stored values", f"{layout.stored} of {layout.allocated} bits, {kind}"))
    if "".join(strings(header, "LossyImageCompression")) == "01" or syntax in DCT:
        ratio = number(header, "LossyImageCompressionRatio")
        facts.append(("lossy compression", f"yes, {ratio:.3g} : 1" if ratio and 1 <= ratio < 1e4 else "yes"))
    return tuple(facts)


# --- what identifies somebody, counted and left where it is -------------------------------------------------------------

KINDS = (
    "names and identifiers",
    "dates and times",
    "people and places",
    "free text",
    "private elements",
    "unique identifiers",
)
PEOPLE = re.compile("Physician|Operator|Institution|Station|Address|Telephone|Location|Person|Performer|Department|Site")
NAMES = re.compile("Patient|AccessionNumber|StudyID$|SerialNumber|Identifier$|OrderNumber|AdmissionID|RequestedProcedureID")
TECHNICAL = re.compile(
    "Code(Value|Meaning)|CodingScheme|Manufacturer$|SoftwareVersions|ConvolutionKernel|RescaleType|Version$|Units$"
)


def withheld(header: Dataset, nesting: int, name: str) -> tuple[tuple[tuple[str, int], ...], frozenset[str]]:
    """How many elements identify somebody, by kind, sequences included; and the words of names and places, to keep them out."""
    counts: Counter[str] = Counter()
    words: set[str] = set()
    seen = 0

    def walk(place: Dataset, depth: int) -> None:
        nonlocal seen
        if depth > nesting:
            raise ImageError(f"The DICOM file {name!r} nests its sequences more than {nesting} deep.", "Export it again.")
        tags = place.keys()  # a data set itself gives elements, each converted
        for tag in tags:
            seen += 1
            if seen > ELEMENTS:
                raise ImageError(f"The header of {name!r} has more than {ELEMENTS} elements.", "Export it again.")
            element = place.get_item(tag)
            vr, value = str(element.VR or _dictionary_vr(tag)), element.value
            if tag.is_private:
                counts["private elements"] += bool(value)
            elif vr == "SQ":
                for item in place[tag].value or []:
                    walk(item, depth + 1)
            elif value:
                kind = _kind(tag, vr, value)
                counts[kind] += 1
                if kind in ("names and identifiers", "people and places"):
                    words.update(word.casefold() for word in re.split(r"\W+|_", _text(value)) if len(word) > 2)

    walk(header, 0)
    return tuple((kind, counts[kind]) for kind in KINDS if counts[kind]), frozenset(words)


def _dictionary_vr(tag: Any) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:  # an element that the standard does not know
        return "UN"


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _kind(tag: Any, vr: str, value: Any) -> str:
    """One of KINDS, or "" for what identifies nobody. After PS3.15 E.1."""
    keyword = keyword_for_tag(tag)
    if vr in ("DA", "TM", "DT"):
        return "dates and times"
    if vr == "UI":
        return "" if _text(value).startswith("1.2.840.10008.") else "unique identifiers"
    if keyword == "AnatomicalOrientationType" and _text(value).strip() in ("BIPED", QUADRUPED):
        return ""
    if tag.group == 0x0010 or (vr in ("LO", "SH", "PN", "AS") and NAMES.search(keyword)):
        return "names and identifiers"
    if vr == "PN" or (vr in ("LO", "SH", "ST", "AE") and PEOPLE.search(keyword)):
        return "people and places"
    if vr in ("LT", "ST", "UT", "UC", "LO", "SH", "UR") and not TECHNICAL.search(keyword):
        return "free text"
    return ""


def burned_in(header: Dataset, modality: str) -> tuple[str, ...]:
    """Why text may stand in the pixels. (0028,0301) alone is not to be relied on."""
    said = "".join(strings(header, "BurnedInAnnotation")[:1])
    reasons = []
    if str(header.get("SOPClassUID") or "").startswith(SECONDARY_CAPTURE):
        reasons.append("The file is a secondary capture, which often has text in its picture.")
    if said == "YES":
        return ("(0028,0301) Burned In Annotation is YES: text stands in the picture.", *reasons)
    if said == "NO":
        return tuple(reasons)
    kinds = strings(header, "ImageType")
    if "SCREEN SAVE" in kinds:
        reasons.append("(0008,0008) Image Type says SCREEN SAVE: a picture of a screen, with its text.")
    elif "SECONDARY" in kinds:
        reasons.append("(0008,0008) Image Type says SECONDARY: made after the acquisition, perhaps with text.")
    if modality in BURNED:
        reasons.append(f"Pictures of this modality ({modality}, {BURNED[modality]}) often have text in them.")
    return tuple(reasons)
