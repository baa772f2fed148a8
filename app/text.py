"""Every sentence on the page, the disclaimer first."""

from collections.abc import Sequence

from engine import NOTICE as NOTICE


def images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def numbered(numbers: Sequence[int]) -> str:
    """Images by their numbers where these are few: "images 3, 7 and 9"."""
    if len(numbers) > 5:
        return images(len(numbers))
    *most, last = map(str, sorted(numbers))
    return f"images {', '.join(most)} and {last}" if most else f"image {last}"


TITLE = "PromptScope"
SUBTITLE = "What does a vision-language model see in this image, and where?"
DROP = "Image files"
FOLDER = "Choose a folder"
DROP_LIMIT = "DICOM (with or without extension; several files or a folder become series), NIfTI, MHA, NRRD, PNG, JPEG, TIFF, WebP, BMP, or a zip of these."
DROP_LIMITS = (
    "Up to {mb} MB a file, {megapixels} megapixels a frame, {frames} frames a file, {volume} million voxels a volume; "
    "zip: {entries} files and {unpacked} MB unpacked. A file that takes longer than {seconds} s is stopped."
)
DROP_PRIVACY = (
    "Names, dates and identifiers in the files are left behind at the door; what is kept stays on the machine that serves this page "
    "and is deleted when you clear the page, at the latest an hour after you leave."
)
READING = "Reading files"
READING_FIRST = "One of {files} files. The others are being read."
EMPTY = "Drop an image, or try an example. Probabilities and a map appear here."
EMPTY_VIEWER = "No image yet"
SAMPLES = "Examples"
BACKBONE = "Backbone"
BACKBONE_INFO = "The model that reads image and words"
PROMPTS = "Question"
PROMPTS_INFO = "The prompt set: its classes and how their words were made"
SERIES = "Series"
FRAME = "Frame of {frames}"
WINDOW = "Window"
WINDOW_INFO = "Centre / width. What you see is what is classified. You can type centre, width."
AS_FILE = "As the file asks, else automatic"
BY_HAND = "By hand"
CENTER = "Window centre"
WIDTH = "Window width"
INVERT = "Invert"
COVER = "Cover areas before classification"
COVER_HELP = "Text in the picture may name a patient, or give the answer away. Covered areas are black in what is shown and in what is classified."
DRAW = "Draw on the image"
COVERED = "Covered areas"
COVERED_INFO = "top, left, height, width in pixels; one area after another, separated by semicolons"
APPLY = "Apply"
COVER_FOUND = "Cover what looks like text"
UNCOVER = "Uncover"
ALL_FRAMES = "Classify all {frames} frames"
STOP = "Stop"
POOL = "All frames become one answer by"
POOLS = (("mean", "mean"), ("each class's highest", "max"), ("mean of the 5 highest", "top-k"))
POOL_TITLE = "All frames: {words}."
POOL_PART = "{done} of {total} frames so far."
CURVE_HELP = "Click in the curve to see that frame."
ABOUT = "What the file says"
REMOVED = "Left behind when the files of this upload came in"
REMOVED_NONE = "Nothing that identifies somebody was found in the files' headers."
MAP_CLASS = "Map shows what speaks for"
MAP_TARGET = "Compared with"
MAP_TARGETS = (("all other classes", "rest"), ("nothing: the class alone", "class"), ("the runner-up", "runner-up"))
MAP_METHOD = "Made by"
MAP_TITLES = {
    "integrated-gradients": "integrated gradients",
    "legrad": "LeGrad",
    "grad-eclip": "Grad-ECLIP",
    "grad-cam": "Grad-CAM",
    "patch-similarity": "patch similarity",
    "attention": "attention of the last layer (the same for every class)",
    "rollout": "attention rollout (the same for every class)",
    "occlusion": "occlusion (slow: hides one place after the other)",
}
WORDS = "Names and look of this class"
WORDS_ABOUT = "Words from which “attribute prompts” are made, the best first, divided by commas, or by semicolons where a comma is part of the words."
WORDS_KINDS = {
    "medical": "Names in a textbook",
    "query": "Names as one would search for it",
    "lay": "Everyday names",
    "colour": "Colour",
    "shape": "Shape",
    "location": "Location",
    "texture": "Texture",
}
WORDS_NAME = "Preview and measure with"
WORDS_NAME_INFO = "Below, and in what Save tells of your images. This is a way of looking: it is not saved."
WORDS_BY = (
    ("its own name", "class"),
    ("its name in a textbook", "medical"),
    ("its name as one would search for it", "query"),
    ("its everyday name", "lay"),
)
WORDS_NO_LOOK = "the name alone"
WORDS_SAVE = "Save names and look"
WORDS_SAVED = "Saved: {kinds}."
WORDS_SAME = "Nothing was changed."
WORDS_UNSAVED = "Not saved yet: {names}. These words stay here until you save them or leave the page."
WORDS_EFFECT = "Such prompts alone, on your labelled images, each class counting the same:"
WORDS_EFFECT_CARE = "Changing the words until this rises makes later results on these images too good."
WORDS_TOO_MANY = "There are {images} labelled images; words are tried on up to {most}."
WORDS_TOO_MANY_HINT = "Use `python -m engine words propose` for more."
WORDS_NO_MODEL = "This page has no language model."
WORDS_NO_MODEL_HINT = "Ask whoever runs this page: PROMPTSCOPE_MASKED_LM names one."
WORDS_READ = "How the model reads this class"
WORDS_PROPOSE = "Which words help?"
WORDS_TRYING = "Trying words on your labelled images"
WORDS_NONE_LABELLED = "There is no labelled image of this task to try words on."
WORDS_NONE_LABELLED_HINT = "Label some in the tab Teach first."
WORDS_TRIED = "The best ways to write the prompts"
WORDS_PLAIN = " (the plain name)"
WORDS_TODAY = " (as attribute prompts are made today, unless told otherwise)"
WORDS_USE = (
    "To use one of these ways: in the tab Teach choose “Words alone”, open “Advanced”, take the method “Attribute prompts”, and write it "
    "into the options: name = class (its own), medical (textbook), query (search) or lay (everyday); slots = such as colour, shape; "
    "ranks = how many variants. Then teach."
)
WORDS_SCORE = "Right, each class counting the same"
WORDS_CHOSEN = "The best of many looks better than it is: the sentence above judges it on images that it was not chosen on."
WORDS_FILL = "Fill all classes by a language model"
WORDS_LOADING = "Loading the language model (the first time it is downloaded, some 440 MB)"
WORDS_FILLING = "The language model chooses words"
WORDS_FILLED = "Colour, shape, location and texture of every class are now what {model} says. Nobody has reviewed them."
WORDS_UNDO = "Take back"
WORDS_BACK = "The words are as they were before they were filled; what you have edited since stays."
POINT_FRAME = "Frame {frame}"
POINT = "Point at a phrase"
POINT_CLASS = "Take the words of a class"
POINT_PHRASE = "What to look for"
POINT_EXAMPLE = "for example: dark irregular mass"
POINT_OTHER = "Beside it, in other words (optional)"
POINT_OTHER_INFO = "Such as the same with its colour, shape and location, to see what these words change."
POINT_LOCATOR = "Found by"
POINT_LOCATOR_INFO = (
    "Parts, one by one: the better way with the page's own model. Where something was pasted into pictures, this pointed at it in 88 of "
    "100, one look at the whole in 76. The whole is quicker and has finer frames."
)
POINT_LOCATORS = (("looking at parts one by one", "windows"), ("one look at the whole", "patches"))
POINT_SHOW = "Show where"
POINT_EMPTY = "Write what to look for first, such as 'dark irregular mass'."
POINT_FOUND = "Where the image resembles the phrase"
POINT_ALT = "Where the image resembles: {phrase}"
POINT_WHERE = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)  # of the picture, not of the patient
POINT_BOX = "{where} of the picture, {size} (score {score})"
POINT_CARE = "The model was never taught where things are. A score is no probability. A frame is where the picture resembles the words, and no outline of a finding: things that are not there may be framed, too. Brighter is more like the words."
POINT_HOW = "How this was found"
POINT_AGAINST = "By {model}; every place is held against: {against}."
CHECK = "Is this map better than chance?"
CHECKING = "Testing the map: places are hidden and shown, in its order and in random ones"
CHECKED = "What a test of the map found"
CHECK_STOPPED = "Stopped. Nothing is known of this map."
CHECK_HOW = "How this was tested"
CHECK_EXPLAINED = (
    "Places of the image were replaced by a blurred copy, what the map marks most first, and put back in the same order; so were "
    "they in {orders} random orders. A map that knows what the model looks at makes the probability fall, and rise, sooner. "
    "This is about the model, not about the patient: a faithful map of a wrong answer shows what misled it."
)
CHECK_PLOT = "The probability of the class as places of the image are shown and taken away"
CHECK_ACROSS = "share of the image's places"
SHOWN_FIRST = "shown first: what the map marks ({title})"
GONE_FIRST = "taken away first: what the map marks ({title})"
SHOWN_RANDOM = "shown at random (the middle of all orders)"
GONE_RANDOM = "taken away at random (the middle of all orders)"
OPACITY = "Map opacity"
UNCALIBRATED = "Uncalibrated: the numbers rank the classes; they are not risks."
CALIBRATED = "Calibrated with a fitted temperature."
FLAT = "The map is flat: the model has no preferred place for this class, so nothing is drawn."
NO_MAP = "This backbone and prompt set offer no map."
MAP_CAVEAT = "The map estimates which places raise the score. It does not outline a finding."
BOX = "The dashed frame is what the model saw; outside it the map says nothing."
NOTES = "How the file was read"
WARNINGS = "Read with care"
CARD = "About this prompt set"
COMPUTED = "Computed on {device}"
CLEAR = "Clear"

SIDES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "H": "head", "F": "feet", "": ""}
LIMITS = "Limits"
REFUSED = "{count} files could not be read"
OTHERS = "; the others are open."
REFUSED_WHICH = "Which, and why"
FRAMES = "frame"
FRAME_FAILED = "Frame {frame} is left out: {error}"
STRIP = "Frames of this series"
GO_TO = "Go to frame {frame}"
OWN_WINDOW = "File {number} {name}: {numbers}"
AUTOMATIC = "Automatic, from the pixels"

# Signing in, and what is refused at the door (app.guard, app.visits)
USER = "User name"
PASSWORD = "Password"
ENTER = "Sign in"
SIGN_IN_FIRST = "This page has a password. Sign in at /login, or send user name and password as HTTP Basic."
WRONG_PASSWORD = "User name or password is wrong. Try again."
WAIT_TO_SIGN_IN = "There were several wrong passwords from this address. Wait {seconds} seconds, then try again."
TOO_LARGE = "This is more than the page takes at once. Send fewer or smaller files."
QUEUE_FULL = "The queue is full ({waiting} wait). Try again in {seconds} seconds: nothing was begun, nothing is lost."
STOPPING = "The page is being stopped or started again. Try again in {seconds} seconds."
UNHEALTHY_BACKBONE = "The backbone {name} is not loaded."
UNHEALTHY_STUCK = "A computation has been under way for {seconds} s, and others wait for it."
UNHEALTHY_QUEUE = "The queue of requests has ended."
UNHEALTHY_TRAININGS = "The queue of trainings has ended."
UNHEALTHY_VISITS = "What is kept for a while is no longer deleted: the thread that does so has ended."
NOTHING_FETCHED = "This page fetches nothing from other addresses. Upload the file itself."

# Teach

STEPS = (
    ("1", "What do you want to tell apart?", ""),
    ("2", "Your images", ""),
    ("3", "Teach", ""),
)
NO_TASK = "There is no question yet. Make one in step 1: then bring images, give them classes, and teach."
NO_CASES = "No images yet. Bring some in step 2: folders that are named like the classes give their images these classes."
NO_MATCH = "No image is of this kind. Choose another filter above."
TASK = "Question"
NEW_TASK = "A new question"
KNOWN = "Start from a known one"
KNOWN_INFO = "Its classes and descriptions are written already"
ADOPT = "Use this one"
OR_OWN = "or write your own"
TASK_TITLE = "What is asked?"
TASK_TITLE_HINT = "Benign or malignant on ultrasound"
TASK_CLASSES = "Classes, one a line"
TASK_CLASSES_HINT = "benign = An oval mass with smooth margins.\nmalignant = An irregular mass with a shadow.\nnormal"
TASK_CLASSES_INFO = "After = you may describe it, in sentences: some methods learn from these words"
MODALITY = "Kind of image"
MODALITIES = ("any", "ultrasound", "X-ray", "CT", "MRI", "OCT", "dermoscopy", "fundus photograph", "histopathology", "endoscopy", "mammography")  # fmt: skip
ORGAN = "Organ"
MAKE = "Make this question"
CHANGE_TASK = "Change or remove this question"
CHANGE_INFO = "Each line is a class. Write over it to rename it, add = and sentences to describe it anew, add lines for new classes. The Library shows all descriptions."
CHANGE = "Save changes"
REMOVE_TASK = "Remove this question"
RESTORE_TASK = "Bring “{title}” back (for a day)"
CHANGED = "The changes are saved."
LINES = "{lines} lines are left for {classes} classes."
LINES_HINT = "Classes can be renamed and added, not taken away: their images would lose them."
BRING = "Drop images here: files, folders or a zip"
BRING_INFO = "A folder that is named like a class gives its images this class. A CSV (path, label, patient) does, too."
BRING_PRIVACY = "Names and identifiers stay outside; patients become P1, P2."
BRING_MORE = "DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, WebP, BMP"
BRING_FILES = "Choose files"
BRING_FOLDER = "Choose a folder"
BRING_FIRST = "First say in step 1 what you want to tell apart."
SENDING = "Sending files"
SEND_FAILED = "The files did not arrive. Check the connection, and that no file is larger than {mb} MB; then try again."
COMING = "Files are read: {share}"
ADDED = "{images} added."
ADDED_NONE = "No new image."
CAME_LABELLED = "{count} came with their class."
AGAIN = "Here already and not added twice: {count}."
CONTRARY = "{count} of these came with another class, patient, group or split now; they keep what they have."
REMOVED_HERE = "Left behind at the door: {what}."
UNKNOWN = "The folder or value {name} is no class of this question ({images})."
AS_CLASS = "Make it a class"
LEFT_OUT = "Files left out: {count}"
SENT_BADLY = "What the page sent is not understood."
NOT_UPLOADED = "{name!r} is no file that was uploaded to this page."
NOT_UPLOADED_HINT = "Upload it: addresses and paths of other machines are not opened."
NOTHING_BROUGHT = "You have brought nothing to this page yet."
NOTHING_BROUGHT_HINT = "Make a question, or take over a known one, first."
VISIT_FULL = "{coming:.0f} MB would come to the {stored:.0f} MB of your visit, for which there is room for {most} MB."
VISIT_FULL_HINT = "Delete what you do not need, or run PromptScope yourself."
TOO_FEW = "{got} values came, and {needed} are needed."
BALANCE = "Images and patients of each class"
CLASS = "Class"
IMAGES = "Images"
PEOPLE = "Patients"
LABELLED = "{labelled} of {cases} images have a class."
PATIENTS = "{known} patients. No patient is both learned from and tested on."
PATIENTS_SOME = (
    "{known} patients; {alone} images name none, and count as one each. No patient is both learned from and tested on."
)
PATIENTS_NONE = "The images name no patient: each counts as one of its own."
FEW = "Fewer than {few} images: {names}. The result will be uncertain."
CLASSES = "{count} classes"
KEEPING = "Back up and delete"
KEEPING_INFO = "Images, classes and trainings stay on the machine that serves this page until you delete them here."
KEEPING_DAYS = "Images stay on the machine that serves this page, and are deleted {days} days after they came."
KEEPING_VISIT = "This is a public page: everything here is deleted when you leave, at the latest {minutes} minutes after you were last seen."
BACK_UP = "Save a backup"
BACKUP_LARGE = "The backup has {megabytes} MB or more; at most {most} MB pass through the page."
BACKUP_HINT = "On the machine that serves it: python -m engine workspace backup FILE."
BACKUP_HINT_PUBLIC = "Delete images that you do not need in it."
BACKUP_INFO = "One file with your images, classes and trainings. Keep it as you keep patients' images."
PATIENT = "Patient"
ERASE_PATIENT = "Delete this patient"
NO_PATIENT = "No patient is chosen."
NO_PATIENT_HINT = "Choose one in the list; patients are named where the files name them."
OLDER = "Older than (days)"
ERASE_OLDER = "Delete these images"
ERASE_OLDER_SURE = (
    "Delete {images} of all your questions, brought more than {days:g} days ago, for good? This cannot be undone."
)
NO_DAYS = "No number of days is given."
NO_DAYS_HINT = "Write one; 0 means all images."
NONE_OLDER = "No image was brought more than {days:g} days ago."
ERASE_CASES_SURE = "Delete {images} for good, with files, classes and results? This cannot be undone."
ERASE_PATIENT_SURE = (
    "Delete everything of {patient} ({images} here, and those in other questions) for good? This cannot be undone."
)
LEARNED_FROM = "Saved prompt sets stay unless they keep features of images: {names}."
ERASE_YES = "Delete for good"
ERASE_NO = "Keep"
ERASED = "Deleted: {images}."
NONE_TO_ERASE = "No image is chosen."
NONE_TO_ERASE_HINT = "Click the images first."

SORTS = (
    ("as they came", "came"),
    ("least sure first", "unsure"),
    ("without class first", "unlabelled"),
    ("by class", "label"),
)
SORT = "Order"
FILTER = "Show"
FILTER_ALL = "all images"
FILTER_NONE = "without class"
FILTER_TWINS = "look-alikes"
TOOLS = "Give the chosen images a class"
NONE_CHOSEN = "None chosen"
CHOSEN = "{} chosen"
NO_LABEL = "no class"
UNDO = "Undo"
ALL_HERE = "All here"
NONE = "None"
ENLARGE = "Enlarge"
ERASE = "Delete"
GRID = "Images"
GRID_HELP = (
    "Click chooses, Shift and Ctrl choose several; a number gives the class, 0 takes it away, U undoes, arrows move, "
    "Enter enlarges. ≈ marks an image that looks like another one."
)
CASE = "Image {number}"
OF_PATIENT = "patient {patient}"
TWIN = "looks like image {number}"
GUESS = "the model thinks {name}, {sure}"
GUESSES = "Below each class, what the model thinks and how sure it is: {by}"
GUESSED_FROM_WORDS = "before it is taught, from the names of the classes alone."
GUESSED_BY = "after your training of {when}. It has learned from the images that had a class: of those, this is no test."
GUESSING = "The model looks at the images: {done} of {total}"
GIVEN = "{images}: {name}"
UNDONE = "Taken back for {images}."
NOTHING_TO_UNDO = "There is nothing to take back."
LOST = "The page had no answer for a while. The images now show what is saved: look at the last classes that you gave."
PREVIOUS = "← Previous"
NEXT_PAGE = "Next →"
PAGES = "{first} to {last} of {total}"
CLOSE = "Close"
MODEL_THINKS = "What the model thinks"

BUDGET = "How"
BUDGETS = {
    "quick": ("Quick", "about a second"),
    "standard": ("Standard", "learns better words for your classes"),
    "words": ("Words alone", "from descriptions, without images"),
}
LAST_TIME = "last time {time}"
ADVANCED = "Advanced"
METHOD = "Method"
METHOD_TITLES = {
    "zero-shot": "Zero-shot",
    "description-ensemble": "Description ensemble",
    "attribute-prompts": "Attribute prompts",
    "coop": "CoOp",
    "cocoop": "CoCoOp",
    "kgcoop": "KgCoOp",
    "prograd": "ProGrad",
    "biomedcoop": "BiomedCoOp",
    "biomed-dpt": "Biomed-DPT",
    "medpromptclip": "MedPromptCLIP",
    "medpromptclip-few-shot": "MedPromptCLIP, then few shots",
    "clip-adapter": "CLIP-Adapter",
    "tip-adapter": "Tip-Adapter",
    "tip-adapter-f": "Tip-Adapter-F",
    "linear-probe": "Linear probe",
    "lp++": "LP++",
}
VIEWS = "Views of each image"
VIEWS_INFO = "The plain one and random crops of it"
SEED = "Seed"
SEED_INFO = "The same seed gives the same result"
OPTIONS = "Options of the method"
OPTIONS_INFO = "One a line, name = value; the paper's are filled in"
OPTION_LINE = "{line!r} is no option."
OPTION_LINE_HINT = "Write one a line, as in: epochs = 50."
OPTION_UNKNOWN = "The method {method} has no option {name!r}."
OPTION_UNKNOWN_HINT = "It has: {names}."
OPTION_VALUE = "The option {name!r} cannot be {value!r}."
OPTION_VALUE_HINT = "An example is {example!r}."
TEACH = "Teach"
RESUME = "Go on"
TRAINING = "Training"
WAITING = "waits: number {position} in the queue"
NEXT = "is next"
STARTING = "begins"
STAGES = {"reading": "looks at the images", "learning": "learns", "checking": "is tested on held-out images"}
STOPPING = "is stopping"
STOPPED = "is stopped. Go on continues where it was."
DONE = "is done. The result stands on the right."
FAILED = "did not work"
STEP = "{done} of {of}"
REMAINING = "about {time} left"
UNDER_A_SECOND = "under a second"
CURVE = "Epoch {epoch}: error {loss}"
LOSS = "error while learning (left)"
HELD_OUT_SO_FAR = "right on held-out images (right)"
EPOCHS = "epoch"

IMAGES_TAB = "Images"
RESULT_TAB = "Result"
NO_RESULT = "No result yet. After a training it says here, in words first, whether it helped."
TRAININGS = "Training"
CARE = "Read with care"
ARMS_CAPTION = "On images that it did not learn from; small: 95 % interval"
ARMS = {
    "tuned": "What you taught",
    "zero-shot": "The model with one sentence a class, before any teaching",
    "baseline": "The simplest thing that could be learned from the same images",
}
METRIC_NAMES = {
    "accuracy": ("Right answers", "Accuracy: the share of images whose likeliest class is their own"),
    "balanced_accuracy": ("Right, each class counting the same", "Balanced accuracy: the mean over classes of the share that is recognised"),
    "auroc": ("Ranking (AUROC)", "How often an image of a class is ranked above one of another; 0.5 is chance, 1 is perfect"),
    "ece": ("Over- or underconfidence (ECE)", "How far the stated probabilities are from how often they are right; 0 is best"),
}  # fmt: skip
AS_PERCENT = ("accuracy", "balanced_accuracy")
CONFUSION = "Rows: your class. Columns: the answer. Click a number to see these images."
CELL = "{count} of “{truth}” were taken for “{answer}”"
RECOGNISED = "{truth}: recognised, {sure}"
TAKEN_FOR = "{truth}: taken for {answer}, {sure}"
IN_CELL = "“{truth}” taken for “{answer}”"
HARDEST = "The hardest images"
ERASED_SINCE = "Deleted since, of this result: {images}."
DESIGNS = {
    "cross-validated": "Every image was tested by a model that had not learned from it or from its patient ({folds} parts took turns).",
    "held-out": "Tested on the images that you had set apart for that.",
    "words-alone": "It learned from words alone; every image with a class was a test.",
    "none": "Nothing could be held out, so nothing is known of how good it is.",
}
SPENT = "It took {time}; the prompt set has {kilobytes} kB."
SET_NAME = "Name"
SET_NAME_INFO = "Of the prompt set: letters, digits, - and _"
SAVE = "Save"
SAVED = "Saved as “{name}”. Read and Compare offer it among the questions."
USE = "Use in Read"
EXPORT = "Download to share"
EXPORT_INFO = "The file holds what was learned, and counts: no image, no name, no identifier."
EXPORT_CACHE = "Attention: this method keeps what the model sees in your images (features) in the set. Treat the file as you treat the images."
FILES_GIVEN = (
    "A file is given as an upload (gradio_client: handle_file), or through MCP as data:;base64, and its content, or as the address "
    "of an upload to this page."
)
NOT_BASE64 = "This file is not understood. Write data:;base64, and its content in base64."

# --- Batch ------------------------------------------------------------------------------------------------------------

BATCH_ABOUT = (
    "Many images, one table: choose the question, then drop files, a folder or a zip. Every file gets a row, those that cannot be "
    "read as well. Copies without names and identifiers are held until you press Clear or leave."
)
BATCH_QUESTIONS = "Questions"
BATCH_QUESTIONS_INFO = "One or more; each image gets a row for each"
BATCH_POOL = "Of a volume, take"
BATCH_MIDDLE = "the middle slice alone"
BATCH_POOLS = (
    ("mean of all slices", "mean"),
    ("each class's highest of all slices", "max"),
    ("mean of the 5 highest slices", "top-k"),
)
BATCH_COVER = "Cover what looks like text first"
BATCH_GO = "Classify"
BATCH_STARTING = "Starting"
BATCH_CLASSIFYING = "Classifying: {done} of {total} images"
BATCH_STOPPED = "Stopped."
BATCH_STOPPED_AT = "Stopped. {done} of {total} images are read."
BATCH_EMPTY = "No table yet"
BATCH_EMPTY_HINT = "Drop images on the left. The table grows while they are read."
BATCH_NOTHING = "There are no files to classify."
BATCH_NOTHING_HINT = "Drop some first."
BATCH_NO_QUESTION = "No question is chosen."
BATCH_NO_QUESTION_HINT = "Choose one or more, up to {most}."
BATCH_MANY_QUESTIONS = "{count} questions are chosen."
BATCH_MANY_QUESTIONS_HINT = "Choose up to {most}."
BATCH_HIDDEN = "Passed over: a hidden file, as systems leave them in folders."
BATCH_AGAIN = "Passed over: the same file came more than once."
BATCH_COUNTS = {"ok": "{count} read", "error": "{count} failed", "skipped": "{count} passed over"}
BATCH_CARE = "{count} to read with care"
BATCH_STATUS = {"ok": "read", "error": "failed", "skipped": "passed over"}
BATCH_QUESTION = "Question"
BATCH_HEAD = ("", "Status", "File", BATCH_QUESTION, "Answer", "Probability", "Care")
BATCH_FOR_ALL = "Read all answers with care"
BATCH_FRAME = "Slice {frame}."
BATCH_FILES = "{first} and {more} more"
BATCH_MORE = "The first {shown} of {all} rows are shown; the downloads have all."
BATCH_NONE_OF_THESE = "No row is of this kind."
BATCH_ONLY = (("all rows", ""), ("failed only", "error"), ("with care only", "care"))
BATCH_CSV = "Save as CSV"
BATCH_JSON = "Save as JSON"

# Compare

COMPARE_IMAGE = "On one image"
COMPARE_CASES = "On labelled images"
COMPARE_IMAGE_HELP = "Up to eight prompt sets look at the same image, side by side."
COMPARE_CASES_HELP = "Which way of teaching works best on the images that you labelled in the tab Teach? Each set is judged only on images that it has not learned from."
WHICH_IMAGE = "Image"
FROM_READ = "Open in Read: {title}"
NOTHING_IN_READ = "The one open in Read (none is open yet)"
EXAMPLE = "Example: {title}"
CHOOSE_SETS = "Prompt sets"
CHOOSE_SETS_INFO = "Up to eight; those that answer the same question stand first"
COMPARE_GO = "Compare"
WHOSE_MAP = "The maps show what speaks for"
OWN_ANSWER = "each one's own answer"
COMPARE_EMPTY = "Choose an image and prompt sets. What each of them says appears here, side by side."
CASES_EMPTY = "Choose a question and what to compare. The answer appears here, in words first."
NO_TASK_YET = "No images are labelled yet. Make a question and label some in the tab Teach; then come back."
NO_AGREEMENT = "These sets ask different questions, so their answers cannot agree or disagree."
ONE_SET = "One set alone: choose a second one to compare it with."
ONE_SCALE = "All maps share one scale: where one is pale, little speaks for its class."
NO_MAP_HERE = "This kind of set has no map."
FLAT_HERE = "Its map is flat: no place stands out."
MAP_OF = "What speaks for {name}"
MAP_PALE = "What speaks for {name}: too little to be seen beside the others"
WHICH_TASK = "Question"
WHICH_TASK_INFO = "In brackets: how many of its images are labelled"
TASK_CASES = "{title} ({labelled})"
CHOOSE_RIVALS = "Compare"
CHOOSE_RIVALS_INFO = (
    "Up to eight. The first is what the others are compared with. “Train now” teaches it first, from the same images"
)
OF_WORDS = "{method}, from words alone"
OF_WORDS_NOW = "{method}, from the words as they are now"
EARLIER_WORDS = ", with earlier words"
OF_LIBRARY = "{method}, from the library"
OF_YOURS = "{method}, yours ({name})"
YOURS = "{method}, yours"
OF_TRAINING = "{method}, training of {when}"
TRAINED_HERE = "{method}, trained here"
TRAIN_NOW = "{method}: train now"
FIRST_TRAINED = "{count} of these will be trained first, one after another, on the same parts of your images."
TRAINING_FIRST = "These are trained first. The comparison begins by itself when they are done."
NOT_TRAINED = "{name} was not trained: {why}"
WAS_STOPPED = "it was stopped."
NOT_COMPARED = "Left out"
READING_CASES = "Looking at the images: {done} of {total}"
NUMBERS = "How good is each one?"
NUMBERS_HELP = "Small: 95 % interval. The line shows it from 0 to 1, the dot is the value."
SHARED_FORWARD = "* The image is looked at once for all sets with a star, however many they are."
ONE_OF_SETS = "Prompt set"
DIFFERENCE = "Against the first"
THE_FIRST = "the first"
IMAGE_TIME = "Time for an image"
SET_SIZE = "Size"
NOT_DEFINED = "not defined here"
POINTS = "{value} points"
RIGHT_WHERE = "Who is right where?"
RIGHT_WHERE_HELP = (
    "Below each image: its number, your class, and what else was said. Rest the pointer on one to read what each set said."
)
SAID_ELSE = "said: {names}"
MORE_IMAGES = "and {count} more"
CALIBRATION = "Do the probabilities mean what they say?"
CALIBRATION_HELP = "Each dot: images that got about this probability, and the share of them that was right; a larger dot is more images. On the line is honest, below it too sure."
BIN = "{images}: given {given}, right {right}"
GIVEN_P = "given"
SAY_THE_SAME = "How often do two say the same?"
KAPPA = "kappa: agreement beyond chance; 1 is always, 0 is chance."
TAKE_ALONG = "Take along"
AS_CSV = "Table (CSV)"
AS_PNG = "Plots (PNG)"
AS_HTML = "Report (HTML)"
WITH_IMAGES = "Show the images in the report"
WITH_IMAGES_INFO = "Off: the report holds numbers and plots only, and nothing of a patient"
NOT_COMPARABLE = "{value!r} is nothing that can be compared here."
NOT_COMPARABLE_HINT = "The endpoint comparable lists what can."
TRAIN_FIRST = "{value!r} has to be trained first."
TRAIN_FIRST_HINT = "The endpoint train does; then name it as training:ID."
FORMS = "A report can be html or csv, not {form!r}."

# --- Library ----------------------------------------------------------------------------------------------------------

LIBRARY_SETS = "Prompt sets"
LIBRARY_BACKBONES = "Backbones"
LIBRARY_DESCRIPTIONS = "Descriptions"
LIBRARY_SEARCH = "Search"
LIBRARY_SEARCH_HINT = "a class, a body part, a name"
LIBRARY_ANY = "any"
LIBRARY_FILTER_TASK, LIBRARY_FILTER_MODALITY, LIBRARY_FILTER_BACKBONE, LIBRARY_FILTER_METHOD = (
    "Task",
    "Kind of image",
    "Backbone",
    "Method",
)
LIBRARY_FILTERS = "Filters"
LIBRARY_WHOSE = (("all", ""), ("mine", "own"), ("shipped", "shipped"))
LIBRARY_COUNT = "{shown} of {all} prompt sets"
LIBRARY_NONE = "No prompt set fits. Clear a filter, teach one in Teach, or bring one below."
LIBRARY_CHOOSE_ONE = "Choose a prompt set on the left to read its card."
LIBRARY_YOURS = "yours"
LIBRARY_YOURS_WORDS = "This set is in your workspace."
LIBRARY_SHIPPED_WORDS = "This set comes with PromptScope and cannot be deleted."
LIBRARY_UNUSABLE = "This set cannot be used"
LIBRARY_CLASSES_WORD = "classes"
LIBRARY_FROM_IMAGES = "from {images} images"
LIBRARY_FROM_WORDS = "from words alone"
LIBRARY_FROM_WORDS_LONG = "Words alone; it has seen no image."
LIBRARY_UP_TO_SHOTS = ", up to {shots} of each class"
LIBRARY_TELLS_APART, LIBRARY_HOW_MADE, LIBRARY_LEARNED_FROM, LIBRARY_SHELF_BACKBONE = (
    "Tells apart",
    "Made by",
    "Learned from",
    "Backbone",
)
LIBRARY_CALIBRATION, LIBRARY_LICENCE, LIBRARY_INTENDED = "Calibration", "Licence", "Intended use"
LIBRARY_CALIBRATED_AT = "Calibrated: a temperature of {t:.2f} was fitted."
LIBRARY_SHORTCUTS = "What it may have learned instead of the finding"
LIBRARY_RAW_CARD = "The card as it is stored"
LIBRARY_FITS = "it was made for the weights on this machine."
LIBRARY_FITS_NOT = "it was made for other weights than those on this machine, and will be refused."
LIBRARY_FITS_LATER = "compared with the weights when it is used."
LIBRARY_FITS_ABSENT = "its weights are not on this machine."
LIBRARY_NO_METRICS = "Nothing has been measured for this set."
LIBRARY_METRIC_NAMES = METRIC_NAMES | {
    "macro_f1": ("Found and not overcalled (macro F1)", "The mean over classes of the balance between what is found and what is called rightly"),
    "specificity": ("Specificity", "The mean over classes of how often an image of another class is not taken for it"),
    "sensitivity_at_90_specificity": ("Sensitivity at 90 % specificity", "The mean over classes"),
    "accuracy minus the untuned description-ensemble's": ("Right answers: gain over descriptions alone", "Accuracy minus the untuned description ensemble's"),
    "balanced_accuracy minus the untuned description-ensemble's": ("Each class the same: gain over descriptions alone", "Balanced accuracy minus the untuned description ensemble's"),
}  # fmt: skip
LIBRARY_POINTS = " points"
LIBRARY_METRICS_CAPTION = "What was measured, with 95 % intervals{where}"
LIBRARY_ON_IMAGES = "{images} images, {split}"
LIBRARY_METHODS = {
    "zero-shot": "One sentence a class",
    "description-ensemble": "The mean of many sentences a class",
    "attribute-prompts": "Each class's name with words of its colour, shape, location and texture",
    "coop": "A learned context (CoOp)",
    "cocoop": "A learned context that follows the image (CoCoOp)",
    "kgcoop": "A learned context held near the words (KgCoOp)",
    "prograd": "A learned context that keeps what the words know (ProGrad)",
    "biomedcoop": "A learned context held by descriptions (BiomedCoOp)",
    "biomed-dpt": "A learned context and a visual prompt (Biomed-DPT)",
    "medpromptclip": "Prompts learned from descriptions alone (MedPromptCLIP)",
    "medpromptclip-few-shot": "Prompts from descriptions, then images (MedPromptCLIP)",
    "clip-adapter": "A small network on the image feature (CLIP-Adapter)",
    "tip-adapter": "A memory of labelled images (Tip-Adapter)",
    "tip-adapter-f": "A tuned memory of labelled images (Tip-Adapter-F)",
    "linear-probe": "Weights on the image feature (linear probe)",
    "lp++": "Weights on the image feature beside the words (LP++)",
}
LIBRARY_SET_EXPORT = "Save as a file"
LIBRARY_SET_REMOVE = "Delete"
LIBRARY_SET_REMOVED = "“{name}” is deleted."
LIBRARY_SET_UNDO = "Undo"
LIBRARY_SET_BACK = "“{name}” is back."
LIBRARY_BRING = "Bring a prompt set: a .safetensors file, or a checkpoint of a paper's code"
LIBRARY_BRING_MORE = "A checkpoint needs to be told what it is for"
LIBRARY_BRING_ASK = "This is a checkpoint of {methods}. Say which task it is for, then press Import."
LIBRARY_BRING_FIRST = "Drop a file first."
LIBRARY_BRING_GO = "Import"
LIBRARY_BRING_METHOD = "Method (where the file could be of several)"
LIBRARY_BRING_TEMPLATE = "Template (where it is not the paper's own), with {} for the class"
LIBRARY_BRING_POSITION = "Place of the class name (Biomed-DPT only)"
LIBRARY_BRING_TRAINED = "Classes it was learned with, in their order, one a line (where they are not the task's)"
LIBRARY_BROUGHT = "“{name}” is in your library. Read, Compare and Batch offer it among the questions."
LIBRARY_BROUGHT_AGAIN = "“{name}” is there already: it is the same as this file. Nothing was added."
LIBRARY_BACKBONE_HEAD = ("Backbone", "On this machine", "Size", "Dimension", "Licence", "Comes from", "Computes on", "")
LIBRARY_BACKBONE_WORDS = {
    "scope-mini": "the default, small, trained by this project; for demonstration",
    "biomedclip": "BiomedCLIP: PubMedBERT and ViT-B/16",
    "clip-vit-b16": "OpenAI's CLIP, ViT-B/16",
    "clip-vit-b32": "OpenAI's CLIP, ViT-B/32",
    "pubmedclip": "PubMedCLIP, ViT-B/32",
    "pmc-clip": "PMC-CLIP: ResNet-50 and PubMedBERT",
    "pmc-clip-l14": "PMC-CLIP, ViT-L/14",
}
LIBRARY_WITH_PROMPTSCOPE = "comes with PromptScope"
LIBRARY_LOADED_ON = "{device}, loaded"
LIBRARY_NOT_LOADED = "not loaded yet"
LIBRARY_DOWNLOAD = "Download"
LIBRARY_FETCHED_OF = "{done} of {of}"
FETCH_ASKING = "Asking the hub"
FETCH_STOPPED = "Stopped. What has come is kept."
FETCH_NOT_HERE = "Whoever runs this page can fetch it."
FETCH_ABSENT = "The weights of {name!r} are not on this machine."
FETCH_PUBLIC = "Visitors of a public page cannot fetch backbones."
FETCH_NONE = "Nothing of {name!r} is being fetched."
FETCH_ABOUT = "Weights are fetched from the model hub once and stay on this machine. No image leaves it."
BANK_TASK = "Task"
BANK_ABOUT = "What is written about each class. Methods that learn from descriptions read these sentences."
BANK_CLASS = "Class to edit"
BANK_LINES = "Its sentences, one a line"
BANK_LINES_INFO = "Say how the class looks in such an image. A shipped task is copied into your workspace first."
BANK_SAVE = "Save these sentences"
BANK_SAVED = "Saved in your workspace for “{name}”: your {own}."
BANK_SAVED_FILLED = "Saved in your workspace for “{name}”: your {own}, and {templates} to fill up."
BANK_UNSAVED = "Not saved yet: what you wrote about {names}. It stays here until you save it or leave the page."
BANK_EFFECT = (
    "On your {images} labelled images the descriptions alone were right in {before} before and {after} now. "
    "Changing the words until this rises makes later results on these images too good."
)
LIBRARY_SENTENCES = "{count} sentences"
LIBRARY_NEGATIVES = "Sentences that say it is absent"
LIBRARY_SOURCE = "Source"
LIBRARY_HOLDS = "Your workspace holds {tasks}, {cases} ({labelled} with a class), {sets} and {size} on disk."
LIBRARY_HOLDS_NONE = "Your workspace is empty."
