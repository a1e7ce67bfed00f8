// Owns desktop notifications: one an update, and what a click on one does.

const PAGE = "popup.html";

chrome.notifications.onClicked.addListener((id) => {
  chrome.notifications.clear(id);
  chrome.tabs.create({ url: PAGE });
});

/** A browser that shows none is no reason to hear of the update again. */
export async function notify(key, { title, text }) {
  const details = { type: "basic", iconUrl: "icons/128.png", title, message: text };
  await chrome.notifications
    .create(key, details)
    .catch((error) => console.error(`no notification of ${title}:`, error));
}
