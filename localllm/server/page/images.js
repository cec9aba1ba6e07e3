// Images to send: drawn again, smaller, so that a request stays small and nothing but pixels leaves the
// page (no place where a photograph was taken).

const LONGEST_SIDE = 1280; // pixels; the encoders that are served see no more
const LARGEST_FILE = 64 * 1024 * 1024;
const MOST_IMAGES = 8;

// Returns a data: URL. Raises an Error whose message is for people.
async function scaledImage(file) {
  if (file.size > LARGEST_FILE) throw new Error(`${file.name || "The image"} is larger than 64 MiB.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name || "The file"} is no image that this browser can read. Try PNG or JPEG.`);
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const pixels = canvas.getContext("2d");
  pixels.fillStyle = "white"; // JPEG has no transparency
  pixels.fillRect(0, 0, canvas.width, canvas.height);
  pixels.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.9);
}

function imageFiles(transfer) {
  return transfer ? [...transfer.files].filter((file) => file.type.startsWith("image/")) : [];
}
