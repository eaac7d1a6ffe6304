/** Conversations and settings in the browser's own database (IndexedDB). They never leave it. */

/** @typedef {import("./types.js").Saved} Saved */

const NAME = "rbee";
const CONVERSATIONS = "conversations";
const SETTINGS = "settings";

/** @type {Promise<IDBDatabase> | null} */
let opened = null;
/** What is kept if there is no database: until the tab is closed. */
const memory = { [CONVERSATIONS]: new Map(), [SETTINGS]: new Map() };

/** @returns {Promise<IDBDatabase>} */
function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(CONVERSATIONS);
      request.result.createObjectStore(SETTINGS);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * One operation on one store.
 *
 * @param {"conversations" | "settings"} store
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} work
 * @param {(kept: Map<string, any>) => any} instead  the same, without a database
 */
async function run(store, mode, work, instead) {
  let db;
  try {
    db = await database();
  } catch {
    return instead(memory[store]);
  }
  return new Promise((resolve, reject) => {
    const transaction = db.transaction(store, mode);
    const request = work(transaction.objectStore(store));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** Does the browser keep anything? It may not, in a private window. */
export async function keeps() {
  return database().then(() => true, () => false);
}

/** Every conversation, the latest first. @returns {Promise<Saved[]>} */
export async function all() {
  const found = await run(CONVERSATIONS, "readonly", (s) => s.getAll(), (m) => [...m.values()]);
  return found.sort((/** @type {Saved} */ a, /** @type {Saved} */ b) => b.updated - a.updated);
}

/** @param {string} id @returns {Promise<Saved | undefined>} */
export const get = (id) => run(CONVERSATIONS, "readonly", (s) => s.get(id), (m) => m.get(id));

/** @param {Saved} saved */
export const put = (saved) => run(CONVERSATIONS, "readwrite", (s) => s.put(saved, saved.id), (m) => m.set(saved.id, saved));

/** @param {string} id */
export const remove = (id) => run(CONVERSATIONS, "readwrite", (s) => s.delete(id), (m) => m.delete(id));

export const clear = () => run(CONVERSATIONS, "readwrite", (s) => s.clear(), (m) => m.clear());

/** A setting, or undefined. @param {string} name */
export const setting = (name) => run(SETTINGS, "readonly", (s) => s.get(name), (m) => m.get(name));

/** @param {string} name @param {any} value */
export const set = (name, value) => run(SETTINGS, "readwrite", (s) => s.put(value, name), (m) => m.set(name, value));
