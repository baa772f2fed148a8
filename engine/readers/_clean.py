"""What is kept of an upload: a copy that identifies nobody and reads to the same pixels.

DICOM: the Basic Application Level Confidentiality Profile of PS3.15 Annex E, as an allow-list and so stricter than the
profile: only what is needed to decode, place and show the pixels goes into the copy. What is text in it is a word of
TERMS, a number or a UID made anew; everything else is left behind, at every level of nesting. Pictures and volumes: only
the parts that hold pixels or geometry.

Left out: what stands in the pixels themselves (engine.burned_in), and comments inside of an encapsulated frame (a DICOM
file's pixel data are copied byte for byte).
"""

from __future__ import annotations

import gzip
import hmac
import io
import math
import os
import re
import secrets
import struct
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import PIL.Image
import pydicom
from pydicom.charset import default_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomFileLike
from pydicom.filereader import _read_file_meta_info, read_dataset, read_preamble
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)
from pydicom.valuerep import VR

from engine.errors import ImageError
from engine.limits import Limits
from engine.readers import dicom, raster, reader_of, volume
from engine.readers._about import BODY_PARTS, KERNELS, KINDS, MODALITIES, VIEWS, withheld
from engine.readers._header import MOST, encoding_of
from engine.readers._person import person

KEY = secrets.token_bytes(32)  # of this process: UIDs made anew can be compared with each other and with nothing else

TEXT, PRIVATE, DATES = "free text", "private elements", "dates and times"  # of pictures and volumes


@dataclass(frozen=True)
class Cleaned:
    """removed : (what, how many), as in About.withheld, that were left behind or, as UIDs, made anew; person : whom the file
    is of, by engine.readers._person, or "" where it does not say."""

    removed: tuple[tuple[str, int], ...]
    person: str = ""


def clean(path: Path, target: Path, limits: Limits, key: bytes = KEY) -> Cleaned:
    """Writes to `target` (mode 600; an older file is replaced) what may be kept of `path`.

    key : files that are cleaned under the same key keep their series together
    Raises ImageError for a file that no reader knows or that cannot be taken apart; nothing is then written.
    """
    kind = reader_of(path).__name__.rpartition(".")[2]
    work: Callable[[Path, BinaryIO, Limits, bytes], tuple[Counter[str], str]] = {
        "dicom": _clean_dicom,
        "raster": _clean_picture,
        "volume": _clean_volume,
    }[kind]
    handle, part = tempfile.mkstemp(dir=target.parent)  # mode 600
    try:
        with os.fdopen(handle, "w+b") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they may quote the file
            removed, whose = work(path, stream, limits, key)
        os.replace(part, target)
    except ImageError:
        raise
    except Exception as error:  # damaged files raise anything, and quote themselves
        raise ImageError(
            f"The file {path.name!r} is damaged or not valid ({type(error).__name__}).", "Save or export it again."
        ) from error
    finally:
        Path(part).unlink(missing_ok=True)
    return Cleaned(tuple((kind, removed[kind]) for kind in KINDS if removed[kind]), whose)


# --- DICOM: what may stay ---------------------------------------------------------------------------------------------


def _set(words: str) -> frozenset[str]:
    """Words with a space are written with a bar."""
    return frozenset(word.replace("|", " ") for word in words.split())


# Read on with the same rules inside. PS3.3 C.7.6.16, C.7.6.17, C.11, C.8.5.5.
SEQUENCES = _set(
    """SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlaneOrientationSequence
    PlanePositionSequence PlaneOrientationVolumeSequence PlanePositionVolumeSequence FrameVOILUTSequence
    PixelValueTransformationSequence FrameContentSequence FrameAnatomySequence FramePixelDataPropertiesSequence
    FrameDisplayShutterSequence CTImageFrameTypeSequence CTExposureSequence CTGeometrySequence
    CTReconstructionSequence MRImageFrameTypeSequence MREchoSequence MRTimingAndRelatedParametersSequence
    XRayImageFrameTypeSequence XAXRFFrameCharacteristicsSequence XAXRFFramePixelDataPropertiesSequence
    DimensionIndexSequence DimensionOrganizationSequence ModalityLUTSequence VOILUTSequence PresentationLUTSequence
    SequenceOfUltrasoundRegions OpticalPathSequence"""
)
# Values of any length, needed to decode. Pixel data of any kind among them.
BULK = _set(
    """PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable ExtendedOffsetTableLengths LUTData
    RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
    AlphaPaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData
    SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData
    SegmentedAlphaPaletteColorLookupTableData"""
)
NUMBERS = _set(
    """Rows Columns SamplesPerPixel PlanarConfiguration NumberOfFrames BitsAllocated BitsStored HighBit
    PixelRepresentation PixelSpacing PixelAspectRatio ImagerPixelSpacing NominalScannedPixelSpacing
    EstimatedRadiographicMagnificationFactor SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue
    PixelPaddingRangeLimit FloatPixelPaddingValue DoubleFloatPixelPaddingValue FloatPixelPaddingRangeLimit
    DoubleFloatPixelPaddingRangeLimit WindowCenter WindowWidth RescaleIntercept RescaleSlope LUTDescriptor
    LossyImageCompressionRatio RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
    BluePaletteColorLookupTableDescriptor AlphaPaletteColorLookupTableDescriptor ImagePositionPatient
    ImageOrientationPatient ImagePositionVolume ImageOrientationVolume SliceLocation SliceThickness
    SpacingBetweenSlices GantryDetectorTilt ReconstructionDiameter DataCollectionDiameter InstanceNumber
    SeriesNumber AcquisitionNumber EchoNumbers TemporalPositionIdentifier NumberOfTemporalPositions
    ImagesInAcquisition TemporalPositionIndex InStackPositionNumber DimensionIndexValues DimensionIndexPointer
    FunctionalGroupPointer FrameAcquisitionNumber TemporalPositionTimeOffset FrameIncrementPointer FrameTime
    FrameTimeVector CineRate RecommendedDisplayFrameRate FrameDelay InConcatenationNumber InConcatenationTotalNumber
    ConcatenationFrameOffsetNumber KVP ExposureTime ExposureTimeInms XRayTubeCurrent XRayTubeCurrentInmA Exposure
    ExposureInmAs ExposureInuAs ExposureTimeInuS XRayTubeCurrentInuA DistanceSourceToDetector
    DistanceSourceToPatient FilterThicknessMinimum FilterThicknessMaximum BodyPartThickness CompressionForce
    PositionerPrimaryAngle PositionerSecondaryAngle TableHeight SpiralPitchFactor SingleCollimationWidth
    TotalCollimationWidth CTDIvol RepetitionTime EchoTime EffectiveEchoTime InversionTime FlipAngle EchoTrainLength
    NumberOfAverages MagneticFieldStrength ImagingFrequency PixelBandwidth PercentSampling PercentPhaseFieldOfView
    NumberOfPhaseEncodingSteps DiffusionBValue TriggerTime NominalInterval MechanicalIndex ThermalIndex
    BoneThermalIndex SoftTissueThermalIndex CranialThermalIndex DepthOfScanField TransducerFrequency
    RegionSpatialFormat RegionDataType RegionFlags RegionLocationMinX0 RegionLocationMinY0 RegionLocationMaxX1
    RegionLocationMaxY1 ReferencePixelX0 ReferencePixelY0 PhysicalUnitsXDirection PhysicalUnitsYDirection
    ReferencePixelPhysicalValueX ReferencePixelPhysicalValueY PhysicalDeltaX PhysicalDeltaY ShutterLeftVerticalEdge
    ShutterRightVerticalEdge ShutterUpperHorizontalEdge ShutterLowerHorizontalEdge CenterOfCircularShutter
    RadiusOfCircularShutter VerticesOfThePolygonalShutter ShutterPresentationValue"""
)
# Each value has to be a word of TERMS.
CODES = _set(
    """Modality PhotometricInterpretation PixelPresentation VolumetricProperties
    VolumeBasedCalculationTechnique ComplexImageComponent AcquisitionContrast ContentQualification
    PresentationIntentType BurnedInAnnotation RecognizableVisualFeatures LossyImageCompression
    LossyImageCompressionMethod VOILUTFunction PresentationLUTShape RescaleType ModalityLUTType
    PixelIntensityRelationship PixelIntensityRelationshipSign ColorSpace BodyPartExamined Laterality ImageLaterality
    FrameLaterality ViewPosition PatientPosition PatientOrientation ScanningSequence SequenceVariant ScanOptions
    MRAcquisitionType ConvolutionKernel ExposureControlMode FilterType RotationDirection PhaseEncodingDirection
    InPlanePhaseEncodingDirection ShutterShape ConversionType DimensionOrganizationType AnodeTargetMaterial
    ImplantPresent PartialView AnatomicalOrientationType"""
)
KINDS_OF_IMAGE = ("ImageType", "FrameType")
OVERLAYS = (0x0102, 0x3000)  # (60xx,0102) Overlay Bit Position, (60xx,3000) Overlay Data
# As many values as the reader looks at are kept, and no more.
FEW = CODES | _set("WindowCenter WindowWidth WindowCenterWidthExplanation")
MADE_ANEW = _set(
    """SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID ConcatenationUID DimensionOrganizationUID
    VolumeFrameOfReferenceUID"""
)
EMPTY = {  # type 2 of the Patient, General Study and General Equipment modules: present, without a value
    "PatientName": "PN",
    "PatientID": "LO",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "AccessionNumber": "SH",
    "ReferringPhysicianName": "PN",
    "StudyID": "SH",
    "Manufacturer": "LO",
}
# Defined terms of PS3.3 for the elements of CODES.
TERMS = (
    MODALITIES
    | BODY_PARTS
    | VIEWS
    | _set(
        """0 1 00 01 -1 YES NO NONE OTHER UNKNOWN ON OFF AUTOMATIC MANUAL FULL PARTIAL MIXED
    ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER REFORMATTED MPR MIP MIN_IP MINIP VOLUME PROJECTION SLICE RENDERED
    RESAMPLED SUM MAX_IP AVERAGE MEAN SUBTRACTION ADDITION MULTIPLICATION FILTERED BIPLANE|A BIPLANE|B SINGLE|PLANE PLANE|A PLANE|B
    SCREEN|SAVE SCREENSHOT CAPTURE PRESENTATION STATIC DYNAMIC GATED TOMO WHOLE|BODY RECON|TOMO EMISSION TRANSMISSION
    M M_FFE M_SE M_IR R_FFE R_SE I_FFE I_SE P_FFE P_SE MAG PHASE|MAP ND NORM DIS2D DIS3D DIFFUSION ADC TRACEW FA FFE SE IR
    T1 T2 T2_STAR PROTON_DENSITY FLOW_ENCODED FLUID_ATTENUATED PERFUSION STIR TAGGING MAGNITUDE PHASE REAL IMAGINARY
    CSA|MPR CSA|BLACK|IMAGE CSA|RESAMPLED CT_SOM5|SPI CT_SOM5|SEQ CT_SOM5|TOP HELICAL CONVENTIONAL STATIONARY
    SPIRAL SEQUENCED CONSTANT_ANGLE PRODUCT RESEARCH SERVICE
    MONOCHROME MONOCHROME1 MONOCHROME2 PALETTE|COLOR RGB HSV ARGB CMYK YBR_FULL YBR_FULL_422 YBR_PARTIAL_422
    YBR_PARTIAL_420 YBR_ICT YBR_RCT XYB COLOR TRUE_COLOR BIPED QUADRUPED
    FOR|PRESENTATION FOR|PROCESSING LINEAR LINEAR_EXACT SIGMOID IDENTITY INVERSE LIN LOG DISP
    ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_2 ISO_13818_2 ISO_14496_10 ISO_23008_2 ISO_15444_15 ISO_18181_1
    OD HU US MGML Z_EFF ED EDW HU_MOD PCT OPTICAL|DENSITY UNSPECIFIED
    SRGB ADOBERGB ROMMRGB RECTANGULAR CIRCULAR POLYGONAL WEDGE BUTTERFLY STRIP FLAT SHAPED ROW COL COLUMN CW CC
    R L B U A P H F CV SCC TAN CCL CCM LMLO
    HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL SITTING
    SE IR GR EP RM SK MTC SS TRSS SP MP OSP PER RG CG PPG FC PFF PFP FS SFS ANGIO 2D 3D TILED_FULL TILED_SPARSE 3D_TEMPORAL
    DV DI DF WSD SD SI DRW SYN TUNGSTEN MOLYBDENUM RHODIUM"""
    )
)
BINARY = _set("US SS UL SL UV SV FL FD AT US|or|SS")
ORIENTED = re.compile(r"[LRAPHF]{1,3}")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
# What windows are called; digits may follow a word.
WINDOWS = _set(
    """window lung lungs bone bones soft tissue tissues brain mediastinum mediastinal abdomen abdominal liver stroke
    spine angio vessel vessels head neck chest pelvis kidney heart larynx ear temporal normal harder softer hard
    wide narrow standard default preset user auto algo contrast fat air skin sinus orbit fossa posterior body breast
    ct cta mr us min max"""
)
SYNTAX = re.compile(r"1\.2\.840\.10008\.1\.2[0-9.]{0,16}")  # a transfer syntax of the standard, of one to come too
VRS = frozenset(each.value for each in VR)
CONTRAST = "YES"  # in place of an agent's name


def _clean_dicom(path: Path, stream: BinaryIO, limits: Limits, key: bytes) -> tuple[Counter[str], str]:
    source, syntax = _parsed(path, limits)
    whose = person(key, *(_said(source, each) for each in ("PatientID", "PatientName", "PatientBirthDate")))
    removed, _ = withheld(source, limits.nesting, path.name)
    copy = _kept(source, key)
    if "Rows" not in copy or not BULK & {keyword_for_tag(tag) for tag in sorted(copy.keys())}:
        dicom.read(path, limits)  # says what it is instead
        raise ImageError(
            f"The DICOM file {path.name!r} holds no image: (0028,0010) Rows or (7FE0,0010) Pixel Data has a VR or a value "
            "that is not valid.",
            "Export it again.",
        )
    if "PhotometricInterpretation" in source and "PhotometricInterpretation" not in copy:
        raise ImageError(
            f"(0028,0004) Photometric Interpretation of {path.name!r} is no term of the standard.", "Export it again."
        )
    _say_that_it_was_done(copy)
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # counted when it is written
    meta.FileMetaInformationVersion = b"\0\1"
    for keyword, own in (("MediaStorageSOPClassUID", "SOPClassUID"), ("MediaStorageSOPInstanceUID", "SOPInstanceUID")):
        if own in copy:
            setattr(meta, keyword, copy[own].value)
    if syntax:
        meta.TransferSyntaxUID = syntax
    stream.write(bytes(128) + b"DICM")  # a preamble may be a program: PS3.10 7.1
    out = DicomFileLike(stream)
    write_file_meta_info(out, meta, enforce_standard=False)
    out.is_implicit_VR, out.is_little_endian = copy.original_encoding
    write_dataset(out, copy)
    return Counter(dict(removed)), whose


def _said(source: Dataset, keyword: str) -> str:
    """The value of a text element as it stands, valid or not: UTF-8, or else one character a byte."""
    found = source.get_item(keyword) if keyword in source else None
    value = found.value if found is not None else None
    if not isinstance(value, bytes):
        return "" if value is None else str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _parsed(path: Path, limits: Limits) -> tuple[Dataset, UID | None]:
    """The data set, its values not yet looked at, and the transfer syntax of the copy, which keeps the encoding."""
    with path.open("rb") as stream:
        read_preamble(stream, force=True)
        syntax = _read_file_meta_info(stream).get("TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:
            begin, inflater = stream.tell(), zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflater.decompress(stream.read(), limits.inflated)
            except zlib.error:
                stream.seek(begin)
                told = encoding_of(stream.read(12))
                if told is None:
                    raise
                stream.seek(begin)  # it is not deflated; the bytes are right, as for the reader
                return read_dataset(stream, told == ImplicitVRLittleEndian, told != ExplicitVRBigEndian), told
            if not inflater.eof:
                raise ImageError(
                    f"The DICOM file {path.name!r} is cut off, or inflates to more than {limits.inflated_mb} MiB.",
                    "Export it uncompressed.",
                )
            return read_dataset(io.BytesIO(data), False, True), ExplicitVRLittleEndian
        stream.seek(0)
        source = pydicom.dcmread(stream, force=True)
    implicit, little = _encoding(source)
    native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    if syntax == dicom.GE or (SYNTAX.fullmatch(syntax or "") and syntax not in dicom.NATIVE):
        return source, UID(syntax)  # what is wrong with the file stays wrong in the copy, and is told of both
    pixels = source.get_item("PixelData") if "PixelData" in source else None
    is_encapsulated = isinstance(pixels, RawDataElement) and pixels.length == 0xFFFFFFFF
    return source, native if syntax == native or not is_encapsulated else None


def _encoding(source: Dataset) -> tuple[bool, bool]:
    """Implicit, little endian: as it was found, which need not be as it was announced."""
    implicit, little = source.original_encoding
    as_found = [each.VR is None for each in map(source.get_item, list(source.keys())) if isinstance(each, RawDataElement)]
    return (2 * sum(as_found) > len(as_found) if as_found else bool(implicit)), little is not False  # single ones may be odd


def _kept(source: Dataset, key: bytes) -> Dataset:
    """What of a data set, or of an item of a sequence, goes into the copy."""
    copy = Dataset()
    implicit, little = _encoding(source)
    copy.set_original_encoding(implicit, little, default_encoding)
    for tag in sorted(source.keys()):
        found, keyword = source.get_item(tag), "" if tag.is_private else keyword_for_tag(tag)
        if keyword in SEQUENCES and source[tag].VR == "SQ":
            copy[tag] = DataElement(tag, "SQ", Sequence([_kept(item, key) for item in source[tag].value]))
        elif keyword == "SOPClassUID" or keyword in MADE_ANEW:
            uid = str(source[tag].value or "")
            copy.add_new(tag, "UI", uid if uid in UID_dictionary or not uid else _anew(uid, key))
        elif keyword == "ICCProfile" and isinstance(found, RawDataElement):
            profile = _plain_profile(found.value or b"")
            if profile:
                copy.add_new(tag, "OB", profile)
        elif keyword == "ContrastBolusAgent":
            copy.add_new(tag, "LO", CONTRAST if found.value else "")
        elif keyword in KINDS_OF_IMAGE:  # its places have meanings: a word that may not stay leaves another there
            words = _words(found.value)[:MOST]
            copy.add_new(tag, "CS", [word if not word or _is_term(keyword, word) else "OTHER" for word in words])
        elif tag.group & 0xFF00 == 0x6000 and tag.element in OVERLAYS:  # that there was one, for the reader's note
            copy.add_new((tag.group, OVERLAYS[0]), "US", 0)
        elif _is_plain(keyword, found):
            copy[tag] = source[tag] if found.VR is None and not implicit else found  # one whose VR is no VR
            if keyword in FEW and len(_words(found.value)) > MOST:
                copy[tag].value = source[tag].value[:MOST]
    return copy


def _is_plain(keyword: str, found: RawDataElement | DataElement) -> bool:
    """May the element be copied as it is? pydicom has converted one or another already."""
    value = found.value
    if found.VR is not None and found.VR not in VRS:
        return False
    if keyword in BULK:
        return True
    if keyword in NUMBERS:
        vr = found.VR if found.VR not in (None, "UN") else dictionary_VR(found.tag)
        if vr in BINARY:
            return True
        return all(NUMBER.fullmatch(each) for each in _words(value) if each)
    if keyword == "WindowCenterWidthExplanation":
        return all(word.rstrip("0123456789") in WINDOWS | {""} for each in _words(value) for word in each.lower().split())
    if keyword in CODES:
        return all(_is_term(keyword, each) for each in _words(value) if each)
    return False


def _is_term(keyword: str, word: str) -> bool:
    if keyword == "PatientOrientation":
        return ORIENTED.fullmatch(word) is not None
    return word.upper() in TERMS or (keyword == "ConvolutionKernel" and KERNELS.fullmatch(word) is not None)


def _words(value: Any) -> list[str]:
    if isinstance(value, bytes):
        value = value.decode("latin-1").split("\\")
    several = value if isinstance(value, (list, MultiValue)) else [value]
    return [str(each).strip(" \0") for each in several if each is not None]


def _anew(uid: str, key: bytes) -> str:
    """A UID under the root that needs no registration, PS3.5 B.2: the same for the same UID and key."""
    return f"2.25.{int.from_bytes(hmac.digest(key, uid.encode(), 'sha256')[:16], 'big')}"


def _say_that_it_was_done(copy: Dataset) -> None:
    """PS3.15 E.1.1, step 6."""
    for keyword, vr in EMPTY.items():
        copy.add_new(keyword, vr, "")
    copy.add_new("PatientIdentityRemoved", "CS", "YES")
    copy.add_new("DeidentificationMethod", "LO", "PromptScope allow-list within the Basic Profile")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    copy.add_new("DeidentificationMethodCodeSequence", "SQ", Sequence([code]))
    copy.add_new("LongitudinalTemporalInformationModified", "CS", "REMOVED")


# The tags of an ICC profile that colours are computed from (ICC.1:2022, 9.2); its texts and dates are left behind.
PROFILE_TAGS = b"rXYZ gXYZ bXYZ wtpt bkpt rTRC gTRC bTRC kTRC chad A2B0 A2B1 A2B2 B2A0 B2A1 B2A2 cicp".split()


def _plain_profile(profile: bytes) -> bytes:
    """The profile without what identifies its maker or its screen; nothing where it is no profile."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return b""
    count = struct.unpack_from(">I", profile, 128)[0]
    if count > 256 or 132 + 12 * count > len(profile):
        return b""
    tags: dict[bytes, bytes] = {}
    for at in range(132, 132 + 12 * count, 12):
        name, start, size = struct.unpack_from(">4sII", profile, at)
        if name in PROFILE_TAGS and start + size <= len(profile):
            tags[name] = profile[start : start + size]
    tags[b"desc"] = b"desc" + struct.pack(">II", 0, 1) + bytes(1 + 4 + 4 + 2 + 1 + 67)  # an empty description, version 2
    tags[b"cprt"] = b"text" + bytes(5)
    if profile[8] >= 4:
        tags[b"desc"] = tags[b"cprt"] = b"mluc" + struct.pack(">III", 0, 0, 12)
    head = bytearray(profile[:128])
    for start, stop in ((4, 8), (24, 36), (40, 44), (48, 56), (80, 128)):  # makers, date, model, digest
        head[start:stop] = bytes(stop - start)
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head[0:4] = struct.pack(">I", start + len(body))
    return bytes(head) + struct.pack(">I", len(tags)) + table + body


# --- pictures ---------------------------------------------------------------------------------------------------------

ORIENTATION = 0x0112  # the one tag of EXIF that changes what is seen
PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"acTL", b"fcTL", b"fdAT")
WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
WEBP_FLAGS = 0x10 | 0x02  # alpha, animation; those of EXIF, XMP and ICC are cleared
JPEG_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # where entropy-coded data end
JPEG_TABLES = {*range(0xC0, 0xD0), *range(0xDA, 0xE0)} - {0xC8}  # frames, scans, tables; no APPn, no COM


def _clean_picture(path: Path, stream: BinaryIO, limits: Limits, key: bytes) -> tuple[Counter[str], str]:
    raster.read(path, limits)  # what cannot be read, or is too large, is said as the reader says it
    data, removed = path.read_bytes(), Counter[str]()
    if data.startswith((b"II", b"MM", b"BM")):
        _rewrite(path, stream, limits)
        removed[TEXT] += 1
        return removed, ""
    with PIL.Image.open(io.BytesIO(data), formats=raster.FORMATS) as picture:
        turned = picture.getexif().get(ORIENTATION, 1)
    exif = _exif(turned) if isinstance(turned, int) and 1 < turned <= 8 else b""
    if data.startswith(b"\x89PNG"):
        parts = _png(data, exif, removed)
    elif data.startswith(b"RIFF"):
        parts = _webp(data, exif, removed)
    else:
        parts = _jpeg(data, exif, removed)
    for part in parts:
        stream.write(part)
    return removed, ""


def _exif(turned: int) -> bytes:
    """A TIFF directory with the orientation alone."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, turned, 0, 0)


def _png(data: bytes, exif: bytes, removed: Counter[str]) -> Iterator[bytes]:
    yield data[:8]
    at = 8
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name in PNG_CHUNKS:
            yield data[at : at + 12 + size]
        else:
            removed[DATES if name == b"tIME" else TEXT] += 1
        if name == b"IHDR" and exif:
            yield struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
        at += 12 + size
        if name == b"IEND":
            removed[PRIVATE] += at < len(data)
            return


def _jpeg(data: bytes, exif: bytes, removed: Counter[str]) -> Iterator[bytes]:
    yield data[:2]
    at, said = 2, False
    while at + 4 <= len(data):
        if data[at] != 0xFF:  # stray bytes between segments
            at += 1
            continue
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            break
        size = struct.unpack_from(">H", data, at + 2)[0]
        segment = data[at : at + 2 + size]
        at += 2 + size
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            yield b"\xff\xe0\x00\x10" + segment[4:16] + b"\0\0"  # without its thumbnail
        elif marker == 0xEE and segment[4:9] == b"Adobe":
            yield b"\xff\xee\x00\x0e" + segment[4:16]
        elif marker in JPEG_TABLES:
            if exif and not said:
                yield b"\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif
                said = True
            yield segment
        else:
            removed[TEXT] += 1
        if marker == 0xDA:
            follows = JPEG_NEXT.search(data, at)
            stop = follows.start() if follows else len(data)
            yield data[at:stop]
            at = stop
    yield data[at : at + 2]
    removed[PRIVATE] += at + 2 < len(data)


def _webp(data: bytes, exif: bytes, removed: Counter[str]) -> Iterator[bytes]:
    end = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    chunks = list(_riff(data, 12, end, removed))
    if exif:
        chunks.append((b"EXIF", exif))
    extended = next((value for name, value in chunks if name == b"VP8X"), None)
    if extended is not None:
        flags = (extended[0] & WEBP_FLAGS) | (0x08 if exif else 0)
        chunks = [(n, bytes([flags]) + v[1:] if n == b"VP8X" else v) for n, v in chunks]
    body = b"".join(name + struct.pack("<I", len(value)) + value + bytes(len(value) % 2) for name, value in chunks)
    removed[PRIVATE] += end < len(data)
    yield b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _riff(data: bytes, at: int, end: int, removed: Counter[str]) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, at)
        value = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
        if name == b"ANMF":  # a frame: 16 bytes of geometry, then chunks
            inner = (n + struct.pack("<I", len(v)) + v + bytes(len(v) % 2) for n, v in _riff(value, 16, len(value), removed))
            yield name, value[:16] + b"".join(inner)
        elif name in WEBP_CHUNKS:
            yield name, value
        else:
            removed[TEXT] += 1


def _rewrite(path: Path, stream: BinaryIO, limits: Limits) -> None:
    """TIFF and BMP, where anything may stand between the parts: decoded, and written anew without compression."""
    with PIL.Image.open(path, formats=raster.FORMATS) as picture:
        name, pages = picture.format, []
        count = min(getattr(picture, "n_frames", 1), limits.frames)
        total = 0
        for index in range(count):
            picture.seek(index)
            total += picture.width * picture.height * len(picture.getbands())
            if picture.width * picture.height * len(picture.getbands()) > limits.values or total > 4 * limits.values:
                raise ImageError(
                    f"The picture {path.name!r} claims more than {limits.megapixels} megapixels a page, or four times "
                    "that in all.",
                    "Save a smaller copy.",
                )
            page = picture.copy()  # a TIFF has been turned as it asks
            transparent = page.info.get("transparency")
            page.info = {} if transparent is None else {"transparency": transparent}
            pages.append(page)
    if name == "TIFF":
        pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:], compression="raw")
    else:
        pages[0].save(stream, "BMP")


# --- volumes ----------------------------------------------------------------------------------------------------------

# Bytes of a NIfTI header that are numbers of the image, and those that are texts; the rest means nothing.
NIFTI_NUMBERS = ((0, 4), (39, 140), (252, 328), (344, 348))
NIFTI_TEXTS = ((4, 14), (14, 32), (148, 228), (228, 252), (328, 344))  # data_type, db_name, descrip, aux_file, intent_name
MHA_KEYS = _set(
    """ObjectType NDims DimSize ElementType ElementSpacing ElementSize Offset Position Origin TransformMatrix Rotation
    Orientation CenterOfRotation AnatomicalOrientation BinaryData BinaryDataByteOrderMSB ElementByteOrderMSB CompressedData
    ElementNumberOfChannels"""
)
NRRD_KEYS = _set(
    """type dimension sizes spacings space space|dimension space|directions space|origin kinds centers centerings endian
    encoding measurement|frame axis|mins axis|maxs thicknesses"""
)
PLAIN = re.compile(r"[-+0-9.eE(),]*|nan|inf|[RLAPSI?]{2,4}")
VOLUME_TERMS = _set(
    """true false image none nan cell node little big raw gz gzip domain space list vector point scalar complex time
    signed unsigned char uchar short ushort int uint long longlong ulonglong float double int8 uint8 int16 uint16 int32 uint32
    int64 uint64 int8_t uint8_t int16_t uint16_t int32_t uint32_t int64_t uint64_t right-anterior-superior
    left-anterior-superior left-posterior-superior right-anterior-superior-time left-anterior-superior-time
    left-posterior-superior-time scanner-xyz 3d-right-handed 3d-left-handed rgb-color rgba-color covariant-vector 3-vector
    3-color 4-color"""
) | {f"met_{kind.lower()}{array}" for kind in volume.MET_TYPES for array in ("", "_array")}


def _clean_volume(path: Path, stream: BinaryIO, limits: Limits, key: bytes) -> tuple[Counter[str], str]:
    """Each format's reader of headers first refuses what does not hold together, or is too large."""
    data, removed = path.read_bytes(), Counter[str]()
    if data.startswith(b"NRRD"):
        volume.nrrd_header(path, limits)
        _clean_nrrd(path, data, stream, removed)
    elif data.startswith(volume.GZIP):
        volume.nifti_header(path, limits)
        with gzip.GzipFile("", "wb", 1, stream, mtime=0) as packed:
            _clean_nifti(gzip.decompress(data), packed, removed)
    elif data[344:348] == b"n+1\0":
        volume.nifti_header(path, limits)
        _clean_nifti(data, stream, removed)
    else:
        volume.metaimage_header(path, limits)
        _clean_mha(path, data, stream, removed)
    return removed, ""


def _clean_nifti(data: bytes, stream: BinaryIO | gzip.GzipFile, removed: Counter[str]) -> None:
    """https://nifti.nimh.nih.gov/nifti-1: the header's numbers, no extensions, the voxels."""
    order = "<" if data[:1] != b"\0" else ">"
    header = bytearray(352)  # the last four announce extensions: none
    for start, stop in NIFTI_NUMBERS:
        header[start:stop] = data[start:stop]
    dim = struct.unpack_from(order + "8h", data, 40)
    code = struct.unpack_from(order + "h", data, 70)[0]
    begin = max(352, int(struct.unpack_from(order + "f", data, 108)[0]))
    struct.pack_into(order + "f", header, 108, len(header))
    struct.pack_into(order + "h", header, 72, 8 * volume.NIFTI_TYPES[code])
    removed[PRIVATE] += data[348:349] == b"\1"
    removed[TEXT] += sum(any(data[start:stop]) for start, stop in NIFTI_TEXTS)
    stream.write(header)
    stream.write(data[begin : begin + math.prod(dim[1 : 1 + dim[0]]) * volume.NIFTI_TYPES[code]])


def _clean_mha(path: Path, data: bytes, stream: BinaryIO, removed: Counter[str]) -> None:
    """https://itk.org/Wiki/MetaIO: the keys of the image, then its data."""
    fields, begin = volume.fields_of(path, "MetaImage")
    del fields["ElementDataFile"]
    kept = [f"{name} = {_plain(path, value)}" for name, value in fields.items() if name in MHA_KEYS]
    removed[TEXT] += len(fields) - len(kept) - ("CompressedDataSize" in fields)
    body = data[begin:]
    if fields.get("CompressedData") == "True":
        inflater = zlib.decompressobj()
        inflater.decompress(body)
        body = body[: len(body) - len(inflater.unused_data)]
        kept.append(f"CompressedDataSize = {len(body)}")
    else:
        kind = fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")
        values = math.prod(map(int, fields["DimSize"].split())) * int(fields.get("ElementNumberOfChannels", 1))
        body = body[: values * volume.MET_TYPES[kind]]
    stream.write("\n".join([*kept, "ElementDataFile = LOCAL\n"]).encode())
    stream.write(body)


def _clean_nrrd(path: Path, data: bytes, stream: BinaryIO, removed: Counter[str]) -> None:
    """https://teem.sourceforge.net/nrrd/format.html: the fields of the image, an empty line, the data."""
    fields, begin = volume.fields_of(path, "NRRD")  # names without their spaces
    known = {name.replace(" ", ""): name for name in NRRD_KEYS}
    kept = [f"{known[name]}: {_plain(path, value)}" for name, value in fields.items() if name in known]
    removed[TEXT] += len(data[:begin].strip().splitlines()) - 1 - len(kept)
    packed = fields["encoding"].lower() != "raw"
    body = gzip.decompress(data[begin:]) if packed else data[begin:]
    body = body[: math.prod(map(int, fields["sizes"].split())) * volume.NRRD_TYPES[fields["type"].lower()]]
    stream.write(data[:8] + "\n".join(["", *kept, "\n"]).encode())
    stream.write(gzip.compress(body, 1, mtime=0) if packed else body)  # a gzip header may name a file


def _plain(path: Path, value: str) -> str:
    if all(PLAIN.fullmatch(word) or word.lower() in VOLUME_TERMS for word in value.split()):
        return value
    raise ImageError(f"The header of {path.name!r} has words where numbers or terms of its format belong.", "Save it again.")
